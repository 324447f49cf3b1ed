"""Halcyon: the whole loop on one page.

    snakemake --configfile config/quickstart.yaml          run a campaign on this machine
    snakemake --configfile config/quickstart.yaml -n       show what there is to do

forcefield → (import_labels →) pretrain → seed → label, then generation after generation
train → domain → explore → select → label → verdict, until the verdict is not `continue`; then
certify → final, the model as a product.
"""

import os
import sys
from pathlib import Path
from shlex import quote

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.21.1")

HERE = Path(workflow.basedir)
# Jobs import the library from here, in whatever environment they run.
# A prefix replaces Snakemake's own strict mode, so it is set again: a job fails with its first
# command that fails. Rules say `exec python …`: a signal to the job reaches the stage program, and
# no shell dies of it before that program has saved.
shell.prefix(f"set -euo pipefail; export PYTHONPATH={quote(str(HERE / 'src'))}; ")
sys.path.insert(0, str(HERE / "src"))

from halcyon.campaign.budget import reopen
from halcyon.campaign.campaign import CAMPAIGN_VARIABLE, NO_RUN, RUN_VARIABLE
from halcyon.campaign.checked import begin_once, begin_run, campaign_of_job
from halcyon.campaign.damage import renew_products
from halcyon.campaign.looking import requested
from halcyon.campaign.paths import (
    CERTIFICATE,
    excluding_generations,
    finished_generations,
    generation_of,
)
from halcyon.campaign.sizes import JobSizes, too_few_cores
from halcyon.campaign.work import audit_text
from halcyon.config.yaml_traps import refuse_traps
from halcyon.errors import InputError
from halcyon.verdict.forms import Verdict
from halcyon.verdict.saturation import gets_certificate, goes_on

if not config:

    configfile: "config/config.yaml"


CONFIG_FILE = str((workflow.configfiles or ["config/config.yaml"])[-1])
# Who only looks (-n, --summary, --unlock, …) leaves no trace; see halcyon.campaign.looking.
REQUEST = requested(workflow)
try:
    for path in workflow.configfiles if workflow.is_main_process else []:
        refuse_traps(Path(path).read_text(encoding="utf-8"), str(path))
    if not workflow.is_main_process:
        CAMPAIGN = campaign_of_job(config, CONFIG_FILE)
    elif REQUEST.runs:
        # The lock comes first. It is held until this process dies.
        CAMPAIGN, CAMPAIGN_LOCK = begin_run(config, CONFIG_FILE)
        # Jobs of a cluster outlive a workflow that is killed: they can tell whose they are.
        os.environ[RUN_VARIABLE] = CAMPAIGN.run()
        os.environ[CAMPAIGN_VARIABLE] = str(CAMPAIGN.file)
        # What a spent budget left undone is done where the budget was raised.
        for line in reopen(CAMPAIGN) + renew_products(CAMPAIGN):
            print(line, file=sys.stderr)
    else:
        if REQUEST.deletes:
            CAMPAIGN, CAMPAIGN_LOCK = begin_run(config, CONFIG_FILE, dry=True)
        else:
            CAMPAIGN = begin_once(config, CONFIG_FILE, dry=True)
        os.environ[RUN_VARIABLE] = NO_RUN
except InputError as error:
    raise WorkflowError(str(error)) from None

SCRIPTS = HERE / "scripts"
ROOT = str(CAMPAIGN.folder)
SYSTEMS = list(CAMPAIGN.systems)
SETTINGS = {name: plan.settings for name, plan in CAMPAIGN.systems.items()}

# Generations that are over and in order are files like any other, without jobs: the graph does not
# grow with a campaign's history. Who forces a rule, names a target or asks about the whole
# campaign gets the whole graph.
PLAIN = workflow.is_main_process and not REQUEST.every_job
try:
    FINISHED = {
        name: finished_generations(CAMPAIGN, name) if PLAIN else 0 for name in SYSTEMS
    }
except InputError as error:
    raise WorkflowError(str(error)) from None


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
include: "workflow/rules/import_labels.smk"
include: "workflow/rules/seed.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/label.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/domain.smk"
include: "workflow/rules/explore.smk"
include: "workflow/rules/second_opinion.smk"
include: "workflow/rules/select.smk"
include: "workflow/rules/verdict.smk"
include: "workflow/rules/certify.smk"
include: "workflow/rules/final.smk"
include: "workflow/rules/report.smk"


# One input function per system: a system whose verdict is pending does not hold up another. The
# verdicts and the last model are targets themselves: a file made of them would hide a missing one.
rule all:
    default_target: True
    input:
        **{name: unroll(name) for name in SYSTEMS},
        **{f"results of {name}": results_of(name) for name in SYSTEMS},
        reports=[f"{ROOT}/{name}/report.html" for name in SYSTEMS],
        finals=[f"{ROOT}/{name}/final/manifest.json" for name in SYSTEMS],
