"""The README's tour, played on a fresh system: every answer is the one that the README shows."""

from infra.tour import README, masked, open_shell, play, steps, system


def test_the_readme_tells_the_truth() -> None:
    text = README.read_text(encoding="utf-8")
    expected = steps(text)
    assert len(expected) > 10
    with system() as environment, open_shell(environment) as shell:
        played = list(play(text, shell))
    assert [(step.command, masked(step.output)) for step in played] == [
        (step.command, masked(step.output)) for step in expected
    ]
