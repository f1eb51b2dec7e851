# One rule per notebook, made from params/facts/notebooks.yaml. Snakemake's own triggers
# (content of small inputs, dates of large ones, parameters, set of inputs) decide what runs again.
# ./run_all.sh calls this. To call it directly, e.g. on a cluster:
#   snakemake --config profile=paper --executor slurm --jobs 4
import json
import os
import shlex
import sys

from companion import workflow as books
from companion.profiles import ROOT, load_params, parse_overrides

workdir: str(ROOT)

PROFILE = str(config.get("profile", "mini"))
PAIRS = config.get("overrides", [])
PARAMS = load_params(PROFILE, parse_overrides(PAIRS))
RUN = PARAMS.run_dir.relative_to(ROOT)
RUNNABLE = [book.name for book in books.runnable(PARAMS)]
# The commands below only name these two, which may change without changing a result.
PYTHON = shlex.quote(sys.executable)
PAIRS = shlex.join(PAIRS)


rule all:
    input:
        [f"{RUN}/{book.name}.ipynb" for book in books.runnable(PARAMS)],


for book in books.runnable(PARAMS):

    rule:
        name:
            f"nb_{book.name}"
        input:
            [f"{RUN}/{name}.ipynb" for name in book.needs if name in RUNNABLE],
            [os.path.relpath(file, ROOT) for file in books.input_files(book, PARAMS)],
        output:
            f"{RUN}/{book.name}.ipynb",
            f"{RUN}/{book.name}.html",
        params:
            name=book.name,
            settings=lambda wildcards, book=book: json.dumps(books.selected(PARAMS, book.fields)),
        threads: books.threads(book, PARAMS, workflow.cores or 1)
        priority: books.priority(book)
        shell:
            "{PYTHON} -m companion.execution {params.name} {PROFILE} {PAIRS}"


# One ablation per job, for a cluster of equal nodes; elsewhere use python -m companion.ablations
#   snakemake --config profile=paper --executor slurm runs/paper/ablations/full/seed{0,1,2,3,4}.csv
rule ablation:
    input:
        f"{RUN}/04_stage2_joint.ipynb",
    output:
        f"{RUN}/ablations/{{variant}}/seed{{seed}}.csv",
    shell:
        "{PYTHON} -m companion.ablations --profile {PROFILE} -p {PAIRS}"
        " --variants {wildcards.variant} --seeds {wildcards.seed}"
