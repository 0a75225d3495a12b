"""engine: the backend's engine, with everything that it was made from."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from qntz.artifacts import digest_file, write_bytes, write_json
    from qntz.config import tensor_specs
    from qntz.engine import build_engine, choose_backend
    from qntz.graph import made_from
    from qntz.packed import read_model
    from qntz.progress import Bar

    config, model = job.config.engine, job.config.model
    backend = choose_backend(config.backend, job.plugins.records("qntz_backends"))
    with Bar(f"engine {job.name}") as progress:
        built, record = build_engine(
            job.paths.quantized,
            tensor_specs(model.inputs, model.dims, config.profiles),
            config,
            job.config.quantize.precision,
            backend,
            progress,
            {
                "quantized.onnx": digest_file(job.paths.quantized),
                "files": made_from(read_model(job.paths.quantized)),
                **{key: job.inputs[key] for key in ("code", "plugins", "tools")},
            },
        )
    write_bytes(job.paths.plan, built.plan)
    write_json(job.paths.engine_json, record)
    what = f"{backend.name} {built.version} for {built.target}"
    job.say(f"{what}, {len(built.plan):,} bytes in {built.seconds:.1f} s")


if __name__ == "__main__":
    run("engine", work)
