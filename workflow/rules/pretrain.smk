# Pre-train MACE on frames of the force field, or adopt a model that the user gives. Resumes after a kill.


rule pretrain:
    input:
        frames=rules.forcefield.output.frames,
        # Its time does not count: campaigns of early releases drew the seed after pre-training.
        seed=ancient(rules.seed.output.selected),
        imported=pretraining_labels,
        start=lambda wc: SETTINGS[wc.system].pretraining.start or [],
    output:
        model="<campaign>/{system}/teacher/pretrained.model",
        metrics=report(
            "<campaign>/{system}/teacher/pretrained.json",
            caption="../report/pretrained.rst",
            category="Teacher",
            labels={"system": "{system}", "what": "pre-training"},
        ),
    log:
        "<campaign>/{system}/logs/pretrain.log",
    conda:
        "../../envs/mace.yaml"
    threads: lambda wc: SETTINGS[wc.system].resources.train_cores
    resources:
        runtime=sized("pretrain", "runtime_min"),
        mem_mb=sized("pretrain", "memory_mb"),
        gpu=gpus,
    params:
        program=SCRIPTS / "pretrain.py",
        campaign=CAMPAIGN.file,
        imported=lambda wc, input: (
            f"--imported {input.imported}" if input.imported else ""
        ),
        seconds=budgeted_seconds,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {log:q} --seconds {params.seconds}"
        " --frames {input.frames:q} {params.imported} --seed {input.seed:q} --model {output.model:q}"
        " --metrics {output.metrics:q}"
