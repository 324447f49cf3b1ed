# Sample frames with the classical force field, through OpenMM. Resumes after a kill.


rule forcefield:
    input:
        lambda wc: [
            path
            for path in CAMPAIGN.systems[wc.system].system.forcefield.paths
            if path.exists()
        ],
    output:
        frames="<campaign>/{system}/teacher/frames.parquet",
        counts=report(
            "<campaign>/{system}/teacher/counts.json",
            caption="../report/teacher.rst",
            category="Teacher",
            labels={"system": "{system}", "what": "frames"},
        ),
    log:
        "<campaign>/{system}/logs/forcefield.log",
    conda:
        "../../envs/openmm.yaml"
    resources:
        runtime=sized("forcefield", "runtime_min"),
        mem_mb=sized("forcefield", "memory_mb"),
    params:
        program=SCRIPTS / "forcefield.py",
        campaign=CAMPAIGN.file,
        seconds=budgeted_seconds,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {log:q} --seconds {params.seconds}"
        " --frames {output.frames:q} --counts {output.counts:q}"
