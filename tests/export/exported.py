"""Random models and setups that could be trained."""

from hypothesis import strategies as st

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.disks import DISKS, idle
from penstock.core.mesh import ORDER
from penstock.core.optimizers import optimizers
from penstock.core.setup import Setup, even
from penstock.export.megatron import has_experts

CLUSTER = Cluster.read("dgx-h100:64")
LOOPS = ("1f1b", "gpipe", "eager-1f1b", "zb-h1")
LOOPED = ("interleaved", "breadth-first", "interleaved-zb", "uniform")
IN_V = ("zb-v", "dualpipev", "v-half")
POWERS = st.sampled_from((1, 2, 4))


@st.composite
def models(draw):
    experts = draw(st.sampled_from((0, 0, 16)))
    return gpt(
        layers=draw(st.sampled_from((24, 31, 32))),
        hidden=4096,
        heads=32,
        vocab=128256,
        kv_heads=draw(st.sampled_from((8, 32))),
        gated=draw(st.booleans()),
        tied=draw(st.booleans()),
        positions=8192,
        experts=experts,
        topk=2,
        expert_ffn=1024,
        shared_ffn=draw(st.sampled_from((0, 2048))) if experts else 0,
        dense_layers=draw(st.sampled_from((0, 3))) if experts else 0,
    )


@st.composite
def pipelines(draw, layers):
    """Ranks, chunks, schedule and layers of stages."""
    pp = draw(POWERS)
    if pp == 1:
        return {}
    schedule = draw(st.sampled_from((*LOOPS, *LOOPED, *IN_V)))
    chunks = 1 if schedule in LOOPS else 2
    sizes = list(even(layers, pp * chunks))
    if draw(st.booleans()):
        sizes[0] -= 1
        sizes[1] += 1
    uneven = tuple(sizes) != even(layers, pp * chunks)
    return {"pp": pp, "schedule": schedule, "chunks": chunks, "stage_layers": tuple(sizes) if uneven else ()}


NAMED = ("fp8-delayed", "fp8-current", "fp8-row", "fp8-block", "mxfp8", "nvfp4")
PRECISIONS = st.one_of(
    st.fixed_dictionaries({"precision": st.sampled_from(("bf16", "fp16", "fp32"))}),
    st.fixed_dictionaries({"precision": st.sampled_from(("fp8", "fp4")), "wide_last": st.sampled_from((0, 0, 4))}),
    st.fixed_dictionaries(
        {
            "precision": st.sampled_from(NAMED),
            "wide_first": st.sampled_from((0, 0, 1)),
            "wide_last": st.sampled_from((0, 0, 3)),
            "low_weights": st.booleans(),
        }
    ),
)


@st.composite
def contexts(draw, cp):
    """Ways of context parallelism."""
    inner = draw(st.sampled_from((0, 0, *(size for size in (2, 4) if size < cp and cp % size == 0))))
    return {"cp_inner": inner, "cp_heads": not inner and draw(st.booleans())}


@st.composite
def switches(draw, split, sp, pipes, experts, again):
    """Of each switch both ways, where they can be."""
    whole = again["recompute"] == "full" or again["recompute_layers"]
    pairs = not whole and (pipes.get("pp", 1) == 1 or pipes["chunks"] > 1)
    ring = not (experts["cp_heads"] or experts["cp_inner"])
    return {
        "tp_overlap": draw(st.sampled_from(("own", "on"))) if sp else "own",
        "ep_overlap": draw(st.sampled_from(("own", "on"))) if pairs and experts["ep"] > 1 else "own",
        "cp_overlap": draw(st.sampled_from(("own", "off"))) if ring and split["cp"] > 1 else "own",
        "pp_overlap": draw(st.sampled_from(("own", "off"))),
    }


@st.composite
def setups(draw, model):
    """Of every field something that is not its default, now and then."""
    split = {name: draw(POWERS) for name in ("tp", "cp", "dp")}
    ranks = split["tp"] * split["cp"] * split["dp"]
    ep = draw(st.sampled_from([n for n in (1, 2, 4) if ranks % n == 0])) if has_experts(model) else 1
    etp = draw(st.sampled_from([n for n in {1, split["tp"]} if ranks % (n * ep) == 0])) if ep > 1 else 1
    micro = draw(st.sampled_from((1, 2)))
    replicas = split["dp"] * split["cp"]
    again = draw(st.sampled_from(("none", "full", "selective", ("attention.core",), ("attention.core", "mlp"))))
    layers = draw(st.sampled_from(((), (), (1,)))) if again == "none" else ()
    made = {"recompute": again, "recompute_layers": layers}
    sp, pipes = draw(st.booleans()), draw(pipelines(model.layers))
    experts = {"ep": ep, "etp": etp} | draw(contexts(split["cp"]))
    away = {"optimizer_offload": draw(st.sampled_from((0.0, 0.0, 0.5, 1.0)))}
    away["weight_offload"] = draw(st.sampled_from((0.0, 0.0, 0.0, 0.5, 1.0)))
    return Setup(
        seq=draw(st.sampled_from((2048, 8192))),
        batch=split["dp"] * micro * draw(st.sampled_from((8, 16))),
        micro=micro,
        sp=sp,
        **experts,
        **made,
        **draw(switches(split, sp, pipes, experts, made)),
        zero=draw(st.integers(0, 3)),
        shards=draw(st.sampled_from([0, *(n for n in (2, 4, 8) if replicas % n == 0 and n < replicas)])),
        offload=draw(st.sampled_from((0.0, 0.0, 0.5, ("input",)))),
        **away,
        disk=draw(st.sampled_from([disk for disk in DISKS if not idle(disk, away)])),
        **draw(PRECISIONS),
        flash=draw(st.booleans()),
        graphs=draw(st.booleans()),
        optimizer=draw(st.sampled_from(("adam", "adam", *(name for name in optimizers() if name != "adam")))),
        dropout=draw(st.booleans()),
        fused_loss=draw(st.booleans()),
        adapter=draw(st.sampled_from((0, 0, 0, 16))),
        multi_token=draw(st.booleans()),
        overlap=draw(st.sampled_from(("own", "own", "gradients", "none"))),
        imbalance=draw(st.sampled_from((1.0, 1.2))),
        vocabulary=draw(st.integers(0, 3)),
        order=draw(st.sampled_from((ORDER, ORDER, "tp-cp-pp-dp", "tp-dp-cp-pp"))),
        **split,
        **pipes,
    )


@st.composite
def asked(draw):
    """A model and a setup for it."""
    model = draw(models())
    return model, draw(setups(model))
