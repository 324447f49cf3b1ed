# Certify the final model by long runs at constant temperature and energy. Resumes after a kill.


rule certify:
    input:
        verdict=of_last("verdict.json"),
        model=of_last("model.model"),
        domain=of_last("domain.json"),
        labels=labels_of_last,
        committee=committee,
    output:
        certificate="<campaign>/{system}/certificate/certificate.json",
        nvt="<campaign>/{system}/certificate/nvt.parquet",
        nve="<campaign>/{system}/certificate/nve.parquet",
    log:
        "<campaign>/{system}/logs/certify.log",
    conda:
        "../../envs/mace.yaml"
    threads: lambda wc: SETTINGS[wc.system].resources.explore_cores
    resources:
        runtime=sized("certify", "runtime_min"),
        mem_mb=sized("certify", "memory_mb"),
        gpu=gpus,
    params:
        program=SCRIPTS / "certify.py",
        campaign=CAMPAIGN.file,
        seconds=budgeted_seconds,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {log:q} --seconds {params.seconds}"
        " --verdict {input.verdict:q} --model {input.model:q} --domain {input.domain:q}"
        " --labels {input.labels:q} --certificate {output.certificate:q}"
