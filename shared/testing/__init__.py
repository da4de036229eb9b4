"""What tests of several services share: factories, and servers in processes of their own."""
