# Input functions of the rules whose inputs depend on the generation.

from types import SimpleNamespace


def read_verdict(path):
    """A verdict; a damaged one ends the workflow, and the message says what to do."""
    try:
        return Verdict.read(Path(path))
    except InputError as error:
        raise WorkflowError(str(error)) from None


def unroll(system):
    """Input function of a system: its verdicts, up to the first that ends the campaign."""

    def verdicts(wildcards):
        settings = SETTINGS[system]
        paths = [
            f"{ROOT}/{system}/gen{number:03d}/verdict.json"
            for number in range(FINISHED[system])
        ]
        if paths and not goes_on(read_verdict(paths[-1]), settings):
            return paths
        for number in range(FINISHED[system], settings.limits.max_generations):
            path = checkpoints.verdict.get(system=system, gen=f"{number:03d}").output[0]
            paths.append(path)
            if not goes_on(read_verdict(path), settings):
                break
        return paths

    return verdicts


def imported_labels(wildcards):
    """Labels of the campaign's own level that one has already (seed_labels.from)."""
    seed = SETTINGS[wildcards.system].seed_labels
    path = f"{ROOT}/{wildcards.system}/imported/labels.parquet"
    return [path] if seed.imports_labels else []


def pretraining_labels(wildcards):
    """Labels of another level from files, which the model is pre-trained on."""
    seed = SETTINGS[wildcards.system].seed_labels
    path = f"{ROOT}/{wildcards.system}/imported/labels.parquet"
    return [path] if seed.pretrains_on_files else []


def label_files(system, batch):
    """Label shards of a batch: `seed`, or a generation's folder such as `gen003`."""
    shards = SETTINGS[system].resources.label_shards
    return [
        f"{ROOT}/{system}/{batch}/labels/{shard:03d}.parquet" for shard in range(shards)
    ]


def labels_before(wildcards):
    """Label shards that a generation learns from: the seed's and those of earlier generations."""
    batches = ["seed"] + [f"gen{number:03d}" for number in range(int(wildcards.gen))]
    return [path for batch in batches for path in label_files(wildcards.system, batch)]


def labels_with(wildcards):
    """Label shards of the seed and of all generations up to this one, its own included."""
    return labels_before(wildcards) + label_files(
        wildcards.system, f"gen{wildcards.gen}"
    )


def start_model(wildcards):
    """Model that a generation is fine-tuned from; none where training starts from nothing."""
    settings, number = SETTINGS[wildcards.system], int(wildcards.gen)
    fresh_every = settings.training.fresh_every
    if number and not (fresh_every and number % fresh_every == 0):
        return [f"{ROOT}/{wildcards.system}/gen{number - 1:03d}/model.model"]
    if settings.pretraining.enabled:
        return [f"{ROOT}/{wildcards.system}/teacher/pretrained.model"]
    return []


def replayed_frames(wildcards):
    """The teacher's frames, where training replays them, or others that are made of them."""
    settings = SETTINGS[wildcards.system]
    if settings.training.weight_of_replay(settings.pretraining):
        return [f"{ROOT}/{wildcards.system}/teacher/frames.parquet"]
    return []


def committee(wildcards):
    """Models that the signal `committee` compares with, where it is watched."""
    return SETTINGS[wildcards.system].domain.watched_committee


def opinions(wildcards):
    """What the second Hamiltonian says of a generation's random frames, where it is asked."""
    if SETTINGS[wildcards.system].audit.hamiltonian is None:
        return []
    verdict = Path(f"{ROOT}/{wildcards.system}/gen{wildcards.gen}/verdict.json")
    path = verdict.with_name("second_opinion.parquet")
    # A generation that was judged before it was asked for stays as it is.
    return [] if verdict.exists() and not path.exists() else [str(path)]


def opinions_before(wildcards):
    """That of the generation before, with which the last audit was judged; none, if it was not."""
    number = int(wildcards.gen) - 1
    path = f"{ROOT}/{wildcards.system}/gen{number:03d}/second_opinion.parquet"
    return [path] if number >= 0 and Path(path).exists() else []


def of_last(name):
    """Input function: a file of the generation whose verdict ended the campaign."""

    def path(wildcards):
        return str(Path(unroll(wildcards.system)(wildcards)[-1]).with_name(name))

    return path


def labels_of_last(wildcards):
    """Label shards that the last generation's model learned from."""
    verdict = of_last("verdict.json")(wildcards)
    generation = Path(verdict).parent.name.removeprefix("gen")
    return labels_before(SimpleNamespace(system=wildcards.system, gen=generation))


def certificate_of(wildcards):
    """The certificate and its traces, where the last verdict calls for one."""
    verdict = read_verdict(of_last("verdict.json")(wildcards))
    if gets_certificate(verdict, SETTINGS[wildcards.system]):
        folder = f"{ROOT}/{wildcards.system}/certificate"
        return [f"{folder}/{name}" for name in CERTIFICATE]
    return []


def shown(wildcards):
    """What the page shows of all generations: a file that is missing is made again."""
    names = (
        "metrics.json",
        "domain.json",
        "traces.parquet",
        "exploration.json",
        "selection.json",
    )
    return [
        str(Path(verdict).with_name(name))
        for verdict in unroll(wildcards.system)(wildcards)
        for name in names
    ]


def results_of(system):
    """Input function: what a finished campaign's product is made of, so that none goes missing."""

    def results(wildcards):
        of_system = SimpleNamespace(system=system)
        names = ("model.model", "metrics.json", "domain.json")
        return [of_last(name)(of_system) for name in names] + certificate_of(of_system)

    return results
