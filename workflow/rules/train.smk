# Fine-tune the model on all labels so far. Resumes after a kill.


rule train:
    input:
        labels=labels_before,
        start=start_model,
        replay=replayed_frames,
        # Its time does not count: campaigns of early releases drew the seed after pre-training.
        seed=ancient(rules.seed.output.selected),
    output:
        model="<campaign>/{system}/gen{gen}/model.model",
        metrics=report(
            "<campaign>/{system}/gen{gen}/metrics.json",
            caption="../report/metrics.rst",
            category="Generations",
            labels={"system": "{system}", "generation": "{gen}", "what": "errors"},
        ),
        parity="<campaign>/{system}/gen{gen}/parity.parquet",
        drift=report(
            "<campaign>/{system}/gen{gen}/drift.json",
            caption="../report/drift.rst",
            category="Generations",
            labels={
                "system": "{system}",
                "generation": "{gen}",
                "what": "drift of features",
            },
        ),
    log:
        "<campaign>/{system}/logs/gen{gen}-train.log",
    conda:
        "../../envs/mace.yaml"
    threads: lambda wc: SETTINGS[wc.system].resources.train_cores
    resources:
        runtime=sized("train", "runtime_min"),
        mem_mb=sized("train", "memory_mb"),
        gpu=gpus,
    params:
        program=SCRIPTS / "train.py",
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
        start=lambda wc, input: f"--start {input.start}" if input.start else "",
        replay=lambda wc, input: f"--replay {input.replay}" if input.replay else "",
        seconds=budgeted_seconds,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --log {log:q} --seconds {params.seconds}"
        " --labels {input.labels:q} {params.start} {params.replay} --seed {input.seed:q}"
        " --model {output.model:q}"
        " --metrics {output.metrics:q} --parity {output.parity:q} --drift {output.drift:q}"
