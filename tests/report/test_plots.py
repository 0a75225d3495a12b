"""The CSV that DVC draws."""

from __future__ import annotations

from qntz.artifacts import ModelPaths
from qntz.report import gather, plots_csv
from tests.report.conftest import engine_records, model_records


def test_a_row_for_each_engine_and_layer_that_was_measured(paths: ModelPaths):
    model_records(paths)
    engine_records(paths.engine("b"))
    layers = 'index,layer,tensor,op,sqnr_db\n0,n,t,Relu,inf\n1,m,"a, b",Conv,7.25\n2,o,u,Conv,\n3,p,v,Conv,-inf\n'
    engine_records(paths.engine("a"), layers=layers)
    assert plots_csv(gather(paths, ["b", "a"])) == (
        "engine,index,layer,op,sqnr_db,state\n"
        "b,0,/stem/Conv_output_0,Conv,41.2500,measured\n"
        "b,2,logits,Gemm,18.5000,measured\n"
        "a,0,t,Relu,,exact\n"
        'a,1,"a, b",Conv,7.2500,measured\n'
        "a,3,v,Conv,,broken\n"
    )


def test_without_engines_only_the_head_is_left(paths: ModelPaths):
    model_records(paths)
    assert plots_csv(gather(paths, [])) == "engine,index,layer,op,sqnr_db,state\n"
