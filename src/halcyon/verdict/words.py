"""A failure rate in plain words: the certificate, the page and the terminal say it the same way.

    from halcyon.verdict.forms import FailureRate
    from halcyon.verdict.words import rate_text

    values = {"failures": 2, "time_ps": 14.0, "rate_per_ps": 1 / 7, "bound_per_ps": 0.45}
    rate_text(FailureRate(**values, confidence=0.95))
    # "in 14 ps, 1 failure per 7 ps of one replica: with 95 % confidence fewer than 1 per 2.2 ps"

Not for: the numbers (`runs`), or other sentences about a campaign (`report.sentences`).
"""

from halcyon.verdict.forms import FailureRate
from halcyon.wording import per_cent, rounded_down, significant


def rate_text(rate: FailureRate) -> str:
    """A failure rate and its bound, as the end of a sentence.

    "in 16 ps: with 95 % confidence fewer than 1 failure per 5.3 ps of one replica"
    """
    if rate.bound_per_ps is None:
        return "and nothing was simulated: there is no failure rate"
    time, level = significant(rate.time_ps), per_cent(rate.confidence)
    bound = f"{rounded_down(1 / rate.bound_per_ps)} ps"
    if not rate.rate_per_ps:
        return (
            f"in {time} ps: with {level} confidence fewer than 1 failure per {bound} of one replica"
        )
    mean = f"1 failure per {significant(1 / rate.rate_per_ps)} ps of one replica"
    return f"in {time} ps, {mean}: with {level} confidence fewer than 1 per {bound}"
