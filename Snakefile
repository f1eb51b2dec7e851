# One rule per notebook, generated from the table in lib/companion/workflow.py.
# ./run_all.sh calls this; directly, e.g. on a cluster:
#   snakemake --config profile=paper --executor slurm --jobs 4
import shlex
import sys

from companion.workflow import NOTEBOOKS, inputs, priority, threads
from alertclip.files import sha256_json
from companion.profiles import ROOT, load_params, parse_overrides

workdir: str(ROOT)

PROFILE = str(config.get("profile", "mini"))
PAIRS = config.get("overrides", [])
PARAMS = load_params(PROFILE, parse_overrides(PAIRS))
RUN = PARAMS.run_dir.relative_to(ROOT)


rule all:
    input:
        [f"{RUN}/{book.name}.ipynb" for book in NOTEBOOKS],


# Outputs are the executed notebook and its report only: Snakemake deletes the outputs of a rule
# before it runs it, and worlds, caches and checkpoints have to survive to be resumed.
for book in NOTEBOOKS:

    rule:
        name:
            f"nb_{book.name}"
        input:
            [f"{RUN}/{name}.ipynb" for name in book.needs],
        output:
            f"{RUN}/{book.name}.ipynb",
            f"{RUN}/{book.name}.html",
        params:
            inputs=sha256_json(inputs(book, PARAMS)),
            call=shlex.join([sys.executable, "-m", "companion.workflow", book.name, PROFILE, *PAIRS]),
        threads: threads(book, PARAMS, workflow.cores or 1)
        priority: priority(book)
        shell:
            "{params.call}"


# One job per variant and seed: `python -m companion.ablations` asks for the missing ones.
rule ablation:
    output:
        f"{RUN}/ablations/{{variant}}/seed{{seed}}.csv",
    log:
        f"{RUN}/ablations/{{variant}}/seed{{seed}}.log",
    threads: 1
    shell:
        f"{shlex.quote(sys.executable)} -m companion.ablations --job --profile {PROFILE}"
        " --variants {wildcards.variant} --seeds {wildcards.seed} > {log} 2>&1"
