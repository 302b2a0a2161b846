"""The best of a few answers over each of the others, as an algorithm of your own."""

from rlhf.records import Collected, Dropped, DropReason, Preference


async def collect(asked, services):
    """`asked`: rlhf.records.Asked; `services`: rlhf.algorithms.base.Services."""
    prompt = asked.prompt
    answers = await services.rollout.generate(prompt, services.sampling, asked.seed)
    verdict = await services.judge.judge(prompt, answers)
    scored = [
        (score, answer)
        for score, answer in zip(verdict.scores, answers, strict=True)
        if score is not None and not answer.truncated
    ]
    if not scored:
        return Collected(prompt, answers, verdict, (), (Dropped(DropReason.SHORT_GROUP),))
    best_score, best = max(scored, key=lambda one: one[0])
    worse = [(score, answer) for score, answer in scored if score < best_score]
    preferences = tuple(
        Preference.over(
            prompt, best, answer, best_score, score, verdict.judge, weight=1 / len(worse)
        )
        for score, answer in worse
    )
    ties = tuple(
        Dropped(DropReason.TIE, best, answer)
        for score, answer in scored
        if score == best_score and answer is not best
    )
    return Collected(prompt, answers, verdict, preferences, ties)
