"""Halcyon: the whole loop on one page.

    snakemake --configfile config/quickstart.yaml          run a campaign on this machine
    snakemake --configfile config/quickstart.yaml -n       show what there is to do

forcefield → pretrain → seed → label, then generation after generation
train → domain → explore → select → label → verdict, until the verdict is not `continue`; then
certify → final, the model as a product.
"""

import json
import os
import sys
from pathlib import Path
from shlex import quote

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.21.1")

HERE = Path(workflow.basedir)
# Jobs import the library from here, in whatever environment they run.
# Rules say `exec python …`: a signal to the job reaches the stage program, and no shell dies of it
# before that has saved.
shell.prefix(f"export PYTHONPATH={quote(str(HERE / 'src'))}; ")
sys.path.insert(0, str(HERE / "src"))

from halcyon.campaign.budget import reopen
from halcyon.campaign.checked import begin_once, resolve_again
from halcyon.errors import InputError
from halcyon.files import take_lock
from halcyon.campaign.sizes import JobSizes
from halcyon.campaign.paths import excluding_generations, finished_generations, generation_of
from halcyon.verdict.saturation import gets_certificate, goes_on
from halcyon.campaign.stage import RUN_VARIABLE

if not config:

    configfile: "config/config.yaml"


# What Snakemake is asked to do it says only after parsing; who only looks must leave no trace.
LOOKING = set("-n -np -pn --dry-run --dryrun --lint --dag --rulegraph".split())
DRY = not LOOKING.isdisjoint(sys.argv)
CONFIG_FILE = str((workflow.configfiles or ["config/config.yaml"])[-1])
try:
    if workflow.is_main_process:
        CAMPAIGN = begin_once(config, CONFIG_FILE, dry=DRY)
        if not DRY:
            # Held until this process dies, however it dies: no stale lock after a kill.
            CAMPAIGN_LOCK = take_lock(CAMPAIGN.lock, wait_s=5)
            # On a cluster, jobs outlive a workflow that is killed: they can tell whose they are.
            os.environ[RUN_VARIABLE] = CAMPAIGN.run()
            # What a spent budget left undone is done where the budget was raised.
            for line in reopen(CAMPAIGN):
                print(line, file=sys.stderr)
    else:
        CAMPAIGN = resolve_again(config, CONFIG_FILE)
        if os.environ.get(RUN_VARIABLE, CAMPAIGN.run()) != CAMPAIGN.run():
            # Here no file has been touched yet. The later run has submitted this work itself.
            raise InputError(
                f"this job belongs to {os.environ[RUN_VARIABLE]}; {CAMPAIGN.run()} has taken over"
            )
except InputError as error:
    raise WorkflowError(str(error)) from None

SCRIPTS = HERE / "scripts"
ROOT = str(CAMPAIGN.folder)
SYSTEMS = list(CAMPAIGN.systems)
SETTINGS = {name: plan.settings for name, plan in CAMPAIGN.systems.items()}

# Generations that are over and in order are files like any other, without jobs: the graph does not
# grow with a campaign's history. Who forces a rule, names a target or asks about the whole
# campaign gets the whole graph.
RUNNING = set(
    "-n -p -np -pn -q -k --dry-run --dryrun --configfile --cores -c --profile".split()
)
RUNNING |= set(
    "--workflow-profile --jobs -j --quiet --printshellcmds --keep-going".split()
)
OPTIONS = {word.split("=")[0] for word in sys.argv[1:] if word.startswith("-")}
PLAIN = (
    workflow.is_main_process
    and OPTIONS <= RUNNING
    and not any(word.startswith(ROOT) for word in sys.argv)
)
FINISHED = {
    name: finished_generations(CAMPAIGN, name) if PLAIN else 0 for name in SYSTEMS
}


pathvars:
    campaign=ROOT,


wildcard_constraints:
    system="|".join(
        name + excluding_generations(number) for name, number in FINISHED.items()
    ),
    gen=r"\d{3}",
    batch=r"seed|gen\d{3}",
    shard=r"\d{3}",


localrules:
    all,
    seed,
    verdict,
    report,


include: "workflow/rules/terminal.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/sizes.smk"
include: "workflow/rules/slurm.smk"
include: "workflow/rules/forcefield.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/seed.smk"
include: "workflow/rules/label.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/domain.smk"
include: "workflow/rules/explore.smk"
include: "workflow/rules/select.smk"
include: "workflow/rules/verdict.smk"
include: "workflow/rules/certify.smk"
include: "workflow/rules/final.smk"
include: "workflow/rules/report.smk"


# One input function per system: a system whose verdict is pending does not hold up another. The
# verdicts are targets themselves: a summary file in front of them would hide a missing one.
rule all:
    default_target: True
    input:
        **{name: unroll(name) for name in SYSTEMS},
        reports=[f"{ROOT}/{name}/report.html" for name in SYSTEMS],
        finals=[f"{ROOT}/{name}/final/manifest.json" for name in SYSTEMS],
