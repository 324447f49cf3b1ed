# The model's training domain: intervals of atomic energies, with margins calibrated on held-out labels.


rule domain:
    input:
        model=rules.train.output.model,
        labels=labels_before,
        teacher=rules.forcefield.output.frames,
        # Its time does not count: campaigns of early releases drew the seed after pre-training.
        seed=ancient(rules.seed.output.selected),
        committee=committee,
    output:
        domain=report(
            "<campaign>/{system}/gen{gen}/domain.json",
            caption="../report/domain.rst",
            category="Generations",
            labels={"system": "{system}", "generation": "{gen}", "what": "domain"},
        ),
    log:
        "<campaign>/{system}/logs/gen{gen}-domain.log",
    conda:
        "../../envs/mace.yaml"
    resources:
        runtime=sized("domain", "runtime_min"),
        mem_mb=sized("domain", "memory_mb"),
        gpu=gpus,
    params:
        program=SCRIPTS / "domain.py",
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --log {log:q} --model {input.model:q}"
        " --labels {input.labels:q} --teacher {input.teacher:q} --seed {input.seed:q}"
        " --domain {output.domain:q}"
