import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixopt.backends import notes
from mixopt.domains import Domain, Manifest, Shard, Split, Tokenizer
from mixopt.errors import DataError
from mixopt.handoff import document, load, load_mixture, parse, save
from mixopt.mixture import Mixture, Schedule
from mixopt.space import MixtureSpace

DOMAINS = (
    Domain(
        "web",
        8_000_000,
        train=Split(7_000, 28_000, 10, (Shard("web-0.u16", 7_000),)),
        fingerprint="w1",
        sources=("s3://b/web/*.jsonl.zst",),
    ),
    Domain("code", 4_000_000, train=Split(15_000, 40_000, 10), fingerprint="c1"),
    Domain("math", 1_000_000),
)
SPACE = MixtureSpace(DOMAINS, target_tokens=10_000_000)
MIXTURE = Mixture({"web": 0.1 + 0.2, "code": 0.7 - 2e-7, "math": 2e-7})
PREDICTION = {"objective": 0.913, "interval": [0.9, 0.926]}


def body(answer=MIXTURE, manifest=None):
    return document(SPACE, answer, manifest, PREDICTION, {"job": "demo", "seed": 0})


def manifest(root):
    return Manifest(DOMAINS, Tokenizer("bpe", 4096, 0, "t1"), root)


def changed(**changes):
    return {**json.loads(json.dumps(body())), **changes}


def test_a_saved_document_gives_the_plan_back_to_the_last_bit(tmp_path):
    path = tmp_path / "deep" / "mixture.json"
    save(body(), path)
    plan = load(path)
    assert plan.mixture == MIXTURE
    assert plan.mixture["web"] == 0.1 + 0.2
    assert plan.epochs == SPACE.epochs(MIXTURE)
    assert plan["web"].mean_tokens_per_doc == 700
    assert plan["math"].mean_tokens_per_doc is None
    assert plan.prediction == PREDICTION
    assert plan.provenance == {"job": "demo", "seed": 0}
    assert load_mixture(path) == MIXTURE
    assert [p.name for p in path.parent.iterdir()] == ["mixture.json"], "no temporary file stays"


def test_the_documented_keys_are_those_of_the_schema():
    content = body()
    assert list(content) == [
        "schema",
        "mixture_id",
        "unit",
        "target_tokens",
        "tokenizer",
        "domains",
        "phases",
        "prediction",
        "provenance",
    ]
    assert content["schema"] == "mixopt.mixture/v1"
    assert content["unit"] == "tokens"
    assert content["domains"][2] == {
        "name": "web",
        "weight": 0.1 + 0.2,
        "available_tokens": 8_000_000,
        "mean_tokens_per_doc": 700.0,
        "fingerprint": "w1",
        "sources": {"text": ("s3://b/web/*.jsonl.zst",)},
        "epochs": 10_000_000 * (0.1 + 0.2) / 8_000_000,
    }
    assert content["phases"] == [{"start_token": 0, "weights": dict(MIXTURE)}]


def test_the_manifest_gives_shards_with_their_type_and_the_tokenizer(tmp_path):
    own = parse(body(manifest=manifest(tmp_path)))
    assert own["web"].sources.shards == ()  # ids of a vocabulary that only the proxies have
    given = replace(manifest(tmp_path), tokenizer=Tokenizer("file", 4096, 0, "t1"))
    plan = parse(body(manifest=given))
    assert plan["web"].sources.shards == (Shard(str(tmp_path / "web-0.u16"), 7_000),)
    assert plan["web"].sources.dtype == "uint16"
    assert plan["code"].sources.shards == ()
    assert plan.tokenizer == {"id": "file", "revision": "t1", "vocab_size": 4096}


def test_the_id_is_of_what_the_run_reads(tmp_path):
    same = document(SPACE, MIXTURE, None, None, {"job": "another"})["mixture_id"]
    assert body()["mixture_id"] == same
    assert same.startswith("sha256:")
    assert len(same) == 7 + 64
    assert body(Mixture({"web": 0.3, "code": 0.6, "math": 0.1}))["mixture_id"] != same
    assert body(manifest=manifest(tmp_path))["mixture_id"] != same, "another tokenizer is another plan"
    moved = body(manifest=manifest(tmp_path / "elsewhere"))["mixture_id"]
    assert moved == body(manifest=manifest(tmp_path))["mixture_id"]


def test_a_schedule_is_kept_in_tokens_and_weights_are_its_mean():
    first = Mixture({"web": 0.8, "code": 0.2, "math": 0.0})
    second = Mixture({"web": 0.0, "code": 0.5, "math": 0.5})
    plan = parse(body(Schedule(((0.0, first), (0.75, second)))))
    assert plan.phases == ((0, first), (7_500_000, second))
    assert plan.tokens == (7_500_000, 2_500_000)
    assert plan.mixture["web"] == pytest.approx(0.6, abs=1e-12)
    assert plan.epochs["math"] == pytest.approx(1.25)


def test_a_schedule_may_stand_beside_the_mixture_and_is_not_part_of_its_identity():
    first = Mixture({"web": 0.8, "code": 0.2, "math": 0.0})
    second = Mixture({"web": 0.0, "code": 0.5, "math": 0.5})
    schedule = Schedule(((0.0, first), (0.75, second)))
    content = document(SPACE, schedule.mean, None, None, None, schedule)
    assert content["schedule"][1] == {"start_token": 7_500_000, "weights": dict(second)}
    plan = parse(json.loads(json.dumps(content)))
    assert plan.phases == ((0, schedule.mean),)
    assert plan.schedule == ((0, first), (7_500_000, second))
    assert plan.id == document(SPACE, schedule.mean, None, None, None)["mixture_id"]
    assert notes(plan)[0].startswith("The search followed a schedule of 2 phases")
    assert notes(parse(body())) == []
    with pytest.raises(DataError, match="schedule: must start at token 0"):
        parse(content | {"schedule": content["schedule"][1:]})


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda w: sum(w) > 1e-3))
@settings(max_examples=50, deadline=None)
def test_any_mixture_survives_the_document(w):
    mixture = Mixture.normalised(dict(zip(("code", "math", "web"), w, strict=True)))
    text = json.dumps(document(SPACE, mixture, None, None, None))
    assert parse(json.loads(text)).mixture == mixture


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (changed(schema="mixopt.mixture/v2"), "unknown schema 'mixopt.mixture/v2'"),
        ({}, "unknown schema None"),
        (changed(unit="documents"), "unit must be 'tokens'"),
        (changed(weights={}), "unknown key 'weights'"),
        (changed(target_tokens=0), "target_tokens: must be a whole number >= 1"),
        (changed(target_tokens=True), "target_tokens: must be a number"),
        (changed(target_tokens=20_000_000), "mixture_id does not belong to this content"),
        (changed(domains=[]), "domains: must be a list with at least one entry"),
        (changed(domains=[{"name": "web"}]), r"domains\[0\]: lacks weight, available_tokens"),
        (changed(domains=body()["domains"] + body()["domains"][:1]), "that no other domain has"),
        (changed(phases=[]), "phases: must be a list"),
        (changed(phases=[{"start_token": 5, "weights": dict(MIXTURE)}]), "must start at token 0"),
        (changed(phases=[{"start_token": 0, "weights": {"web": 1.0, "cod": 0.0}}]), "did you mean 'code'"),
        (changed(phases=[{"start_token": 0, "weights": {"web": 1.0, "code": 0.0}}]), "no proportion for math"),
        (changed(phases=[{"start_token": 0, "weights": {"web": 0.5, "code": 0.4, "math": 0.2}}]), "sum to 1.1"),
        (changed(phases=[{"start_token": 0, "weights": {"web": 1.5, "code": -0.5, "math": 0}}]), "finite and >= 0"),
        (
            changed(phases=[{"start_token": 0, "weights": {"web": "1", "code": 0, "math": 0}}]),
            "'web': must be a number",
        ),
        (changed(phases=[{"start_token": 0, "weights": {"web": 1, "code": 0, "math": 0}}]), "Make them agree"),
        (changed(prediction=3), "prediction must be an object or null"),
    ],
)
def test_what_is_wrong_is_said(content, sentence, tmp_path):
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=sentence) as e:
        load(path)
    assert str(path) in str(e.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"available_tokens": 0}, "available_tokens: must be a whole number >= 1"),
        ({"mean_tokens_per_doc": 0}, "must be positive or null"),
        ({"mean_tokens_per_doc": "many"}, "mean_tokens_per_doc: must be a number"),
        ({"name": ""}, "name must be a text"),
        ({"sources": {"megatron_prefx": "/d/web"}}, "did you mean 'megatron_prefix'"),
        ({"sources": {"megatron_prefix": ["/d/web"]}}, "must be one path"),
        ({"sources": {"npy": "a.npy"}}, "must be a list of paths"),
        ({"sources": {"shards": [{"path": "a"}]}}, "lacks tokens"),
        ({"sources": {"shards": [{"path": "a", "tokens": 3}]}}, "'uint16' or 'uint32'"),
    ],
)
def test_what_is_wrong_with_a_domain_is_said(change, sentence):
    content = json.loads(json.dumps(body()))
    content["domains"][0].update(change)
    with pytest.raises(DataError, match=sentence):
        parse(content)


def test_sources_may_be_completed_by_hand_without_touching_the_id():
    content = json.loads(json.dumps(body()))
    content["domains"][0]["sources"] = {
        "megatron_prefix": "/d/code_text_document",
        "npy": ["s3://b/*.npy"],
        "mds": "s3://m",
    }
    assert parse(content).id == content["mixture_id"]


def test_an_edited_mixture_is_accepted_once_its_id_is_removed():
    content = json.loads(json.dumps(body(Mixture({"web": 0.5, "code": 0.3, "math": 0.2}))))
    for domain, weight in zip(content["domains"], (0.25, 0.25, 0.5), strict=True):
        domain["weight"] = weight
    content["phases"][0]["weights"] = {"code": 0.25, "math": 0.25, "web": 0.5}
    with pytest.raises(DataError, match="remove mixture_id"):
        parse(content)
    del content["mixture_id"]
    assert parse(content).mixture["math"] == 0.25


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "must hold one JSON object"),
        ("{}", "needs a mapping"),
        ('{"web": 0.5, "web": 0.5}', "a key twice"),
        ('{"web": 0.5, "code": 0.4}', "sum to 0.9"),
        ('{"web": 1.5, "code": -0.5}', ">= 0"),
        ('{"web": NaN}', "finite"),
        ('{"web": null}', "must be a number"),
    ],
)
def test_a_plain_mapping_is_a_mixture_or_an_error(text, sentence, tmp_path):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"web": 0.5, "naïve": 0.5, "schema": 0}', encoding="utf-8")
    assert load_mixture(good) == Mixture({"web": 0.5, "naïve": 0.5, "schema": 0.0})
    bad.write_text(text)
    with pytest.raises(DataError, match=sentence):
        load_mixture(bad)


def test_a_missing_file_and_an_unwritable_number_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="not readable"):
        load(tmp_path / "none.json")
    with pytest.raises(DataError, match="JSON cannot"):
        save(document(SPACE, MIXTURE, None, {"objective": math.nan}, None), tmp_path / "mixture.json")
    assert not list(tmp_path.iterdir())


def test_the_answer_must_have_the_domains_of_the_space():
    with pytest.raises(DataError, match="unknown domain 'books'"):
        body(Mixture({"books": 1.0}))
