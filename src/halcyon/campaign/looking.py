"""Whether a `snakemake` command runs jobs or only looks; asked while the Snakefile is parsed.

    from snakemake import cli
    from halcyon.campaign.looking import of_options

    parser, options = cli.parse_args(["--configfile", "config/quickstart.yaml", "-nq"])
    of_options(options, parser).runs  # False

The Snakefile asks `requested`, which finds the options of the command that is running.

A command that only looks (a dry run, `--summary`, `--unlock`, …) leaves a campaign's folder byte
for byte as it was. Snakemake decides what a command does from the options that its own parser read
from the command line, the profiles and the environment; so does this module. What is not surely a
run counts as looking. If Snakemake then starts jobs after all, `Request.refusal` stops it, because
no lock is held.

Not for: taking the lock (`checked.begin_run`), or the options of stage programs (`stage`).
"""

import inspect
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LOOKS = _names(
    "dryrun lint list_rules list_target_rules print_compilation containerize report reporter "
    "generate_unit_tests dag rulegraph filegraph d3dag unlock cleanup_metadata conda_cleanup_envs "
    "conda_create_envs_only list_conda_envs cleanup_shadow container_cleanup_images list_changes "
    "list_input_changes list_params_changes list_untracked summary detailed_summary archive "
    "export_cwl version"
)
"""Options with which Snakemake does something else than running jobs."""
DELETES = _names("delete_all_output delete_temp_output")
"""Options with which it runs no job but deletes what jobs wrote."""
CHOOSES = _names(
    "targets target_jobs force forceall forcerun prioritize batch until omit_from allowed_rules "
    "touch draft_notebook edit_notebook report_after_run"
)
"""Options about single jobs or about all of them: the job graph must have every job."""
ONLY_HOW = _names(
    "profile workflow_profile cache snakefile cores jobs local_cores resources set_threads "
    "max_threads set_resources set_scatter set_resource_scopes default_resources "
    "preemptible_rules preemptible_retries configfile config replace_workflow_config envvars "
    "directory keep_going rerun_triggers executor consider_ancient rerun_incomplete shadow_prefix "
    "strict_dag_evaluation scheduler conda_base_path no_subworkflows precommand groups "
    "group_components report_stylesheet report_metadata notebook_listen skip_script_cleanup "
    "keep_incomplete drop_metadata printshellcmds debug_dag nocolor quiet verbose "
    "force_use_threads allow_ambiguity nolock ignore_incomplete max_inventory_time trust_io_cache "
    "max_checksum_file_size latency_wait wait_for_free_local_storage wait_for_files "
    "wait_for_files_file runtime_source_cache_path queue_input_wait_time omit_flags notemp "
    "all_temp unneeded_temp_files keep_storage_local_copies not_retrieve_storage "
    "target_files_omit_workdir_adjustment max_jobs_per_timespan max_jobs_per_second "
    "max_status_checks_per_second seconds_between_status_checks retries wrapper_prefix "
    "default_storage_provider default_storage_prefix local_storage_prefix "
    "remote_job_local_storage_prefix shared_fs_usage scheduler_greediness scheduler_subsample "
    "no_hooks debug runtime_profile local_groupid attempt show_failed_logs logger "
    "job_deploy_sources benchmark_extended persistence_backend persistence_backend_db_url "
    "container_image immediate_submit jobscript jobname software_deployment_method use_conda "
    "conda_not_block_search_path_envvars conda_prefix conda_cleanup_pkgs conda_frontend "
    "use_apptainer apptainer_prefix apptainer_args use_envmodules deploy_sources mode "
    "scheduler_solver_path"
)
"""Options about how jobs are run. An option in none of these sets is unknown: it looks."""
PLUGIN_SETTINGS = " plugin settings"
"""The parser's groups of options that belong to a plugin end so; they only say how."""
FINISHED_TRIGGERS = frozenset(("mtime", "input"))
"""Reasons to repeat a job that are ruled out for finished generations without their jobs."""


@dataclass(frozen=True)
class Request:
    """What a command asks Snakemake for.

    Attributes:
        runs: jobs are run (or their outputs touched): the campaign's lock is needed.
        deletes: no job is run, but outputs are deleted: the lock is needed, too.
        every_job: the job graph must have every job, finished generations included.
        reason: why the command counts as one that runs no jobs; empty where it runs them.
    """

    runs: bool = False
    deletes: bool = False
    every_job: bool = True
    reason: str = ""

    @property
    def refusal(self) -> str:
        """What to say where Snakemake starts jobs although the command was taken for a look."""
        return (
            f"Halcyon took this command for one that runs no jobs ({self.reason}) and holds no "
            "lock on the campaign: nothing was run. To run the campaign: snakemake --configfile "
            "FILE, without that option"
        )


def requested(workflow: Any) -> Request:
    """What the command that parses the Snakefile at this moment asks for.

    Args:
        workflow: Snakemake's, as the Snakefile knows it.
    """
    parsed = _parsed_command_line()
    if parsed is None:
        return Request(reason="it was not started by the command `snakemake`")
    request = of_options(*parsed)
    if workflow.output_settings.dryrun and request.runs:
        return Request(reason="--dry-run")
    return request


def of_options(options: Namespace, parser: ArgumentParser) -> Request:
    """What Snakemake does with these options.

    Args:
        options: as Snakemake's parser read them from command line, profiles and environment.
        parser: that parser.
    """
    given = set(_given(options, parser))
    if options.executor == "dryrun":
        given.add("dryrun")
    if "report_after_run" in given:
        given -= {"report", "reporter"}  # then the report comes after the jobs
    unknown = given - LOOKS - DELETES - CHOOSES - ONLY_HOW
    every_job = bool(given & CHOOSES - {"targets"}) or not set(options.targets) <= {"all"}
    triggers = {str(trigger).lower() for trigger in options.rerun_triggers}
    every_job = every_job or not triggers <= FINISHED_TRIGGERS
    if looks := sorted(given & LOOKS):
        every_job = every_job or looks != ["dryrun"]
        return Request(every_job=every_job, reason=", ".join(map(_spelled, looks)))
    if unknown:
        names = ", ".join(map(_spelled, sorted(unknown)))
        return Request(reason=f"it does not know {names} of this version of Snakemake")
    if deletes := sorted(given & DELETES):
        return Request(deletes=True, reason=", ".join(map(_spelled, deletes)))
    return Request(runs=True, every_job=every_job)


def _given(options: Namespace, parser: ArgumentParser) -> Iterator[str]:
    """Names of the options with another value than their default, those of plugins left out."""
    plugins = {
        action.dest
        for group in parser._action_groups  # noqa: SLF001 - argparse gives no other way to them
        if (group.title or "").endswith(PLUGIN_SETTINGS)
        for action in group._group_actions  # noqa: SLF001
    }
    for name, value in vars(options).items():
        default = parser.get_default(name)  # some values cannot be compared with None
        if name not in plugins and value and not (default and value == default):
            yield name


def _spelled(name: str) -> str:
    return "--dry-run" if name == "dryrun" else f"--{name.replace('_', '-')}"


def _parsed_command_line() -> tuple[Namespace, ArgumentParser] | None:
    """Options and parser of the `snakemake` command that this process is; None: it is not one.

    Snakemake keeps them only as variables of the function that is running the command, and hands
    the Snakefile no more of them than whether it is a dry run. To parse the command line once
    more would read other profiles where `--directory` has changed the working folder meanwhile.
    """
    cli = sys.modules.get("snakemake.cli")
    code = getattr(getattr(cli, "args_to_api", None), "__code__", None)
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is code:
            options, parser = (frame.f_locals.get(name) for name in ("args", "parser"))
            if isinstance(options, Namespace) and isinstance(parser, ArgumentParser):
                return options, parser
        frame = frame.f_back
    return None
