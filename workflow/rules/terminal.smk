# What a person sees in the terminal: the stages' own lines, and a table at the end of the run.
# Snakemake's messages about every job stay in its log file; its errors, and the table of a dry run,
# are shown.

import logging
from shlex import quote

HIDDEN_EVENTS = {
    "job_info",
    "job_started",
    "job_finished",
    "shellcmd",
    "progress",
    "resources_info",
}
HIDDEN_BEGINNINGS = (
    "Select jobs to execute",
    "Execute ",
    "Updating checkpoint",
    "DAG of jobs will be",
)


def is_shown(record):
    event = str(getattr(record, "event", None) or "")
    hidden = HIDDEN_EVENTS if workflow.dryrun else HIDDEN_EVENTS | {"run_info"}
    return event not in hidden and not str(record.msg).startswith(HIDDEN_BEGINNINGS)


for handler in logging.getLogger("snakemake.logging").handlers:
    if type(handler).__name__ == "ColorizingTextHandler":
        handler.addFilter(is_shown)

if workflow.is_main_process and workflow.output_settings.dryrun:
    for name, plan in CAMPAIGN.systems.items():
        print(f"{name}: {audit_text(plan)}", file=sys.stderr)

SUMMARY = f"python {quote(str(SCRIPTS / 'summary.py'))} --campaign {quote(str(CAMPAIGN.file))}"


onstart:
    # Jobs are about to be run. Where this command was taken for a look, there is no lock.
    if workflow.is_main_process and not REQUEST.runs:
        raise WorkflowError(REQUEST.refusal)
    if workflow.non_local_exec and (
        fault := too_few_cores(CAMPAIGN, workflow.resource_settings.cores)
    ):
        raise WorkflowError(fault)


onsuccess:
    shell(SUMMARY)


onerror:
    shell(SUMMARY)
