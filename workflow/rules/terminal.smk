# What a person sees: the stages tell what they do, a table ends the run. Snakemake's own account of
# every job stays in its log file; its errors, and the table of a dry run, are shown.

import logging
from shlex import quote

UNSAID = {
    "job_info",
    "job_started",
    "job_finished",
    "shellcmd",
    "progress",
    "resources_info",
}
CHATTER = (
    "Select jobs to execute",
    "Execute ",
    "Updating checkpoint",
    "DAG of jobs will be",
)


def worth_saying(record):
    event = str(getattr(record, "event", None) or "")
    unsaid = UNSAID if workflow.dryrun else UNSAID | {"run_info"}
    return event not in unsaid and not str(record.msg).startswith(CHATTER)


for handler in logging.getLogger("snakemake.logging").handlers:
    if type(handler).__name__ == "ColorizingTextHandler":
        handler.addFilter(worth_saying)

SUMMARY = f"python {quote(str(SCRIPTS / 'summary.py'))} --campaign {quote(str(CAMPAIGN.file))}"


onstart:
    # Jobs are about to be run. Where this command was taken for a look, there is no lock.
    if workflow.is_main_process and not REQUEST.runs:
        raise WorkflowError(REQUEST.refusal)


onsuccess:
    shell(SUMMARY)


onerror:
    shell(SUMMARY)
