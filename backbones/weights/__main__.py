"""Weights of the zoo, from their sources to files that are safe and checked.

python -m backbones.weights list ['cswin*']       published weights, and which are here
python -m backbones.weights info cswin_b.in1k
python -m backbones.weights download cswin_t.in1k ...
python -m backbones.weights import FILE [--model NAME]
python -m backbones.weights verify [NAME ...] [--data IMAGENET]
python -m backbones.weights convert FILE OUT.safetensors
python -m backbones.weights export NAME FOLDER    for the Hugging Face hub
"""

import argparse
import fnmatch
from collections.abc import Sequence
from pathlib import Path

import backbones
from backbones import weights
from backbones.classification import cli
from backbones.weights import cache


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="published weights, and which are here")
    command.add_argument("filter", nargs="?", default="*", help="names, with wildcards")
    command.set_defaults(run=_list)

    command = commands.add_parser("info", help="where weights come from")
    command.add_argument("name")
    command.set_defaults(run=_info)

    command = commands.add_parser("download", help="download, check and convert weights with a direct link")
    command.add_argument("names", nargs="+", metavar="NAME")
    command.add_argument("--cache-only", action="store_true", help="only say whether they are here")
    command.add_argument("--force", action="store_true", help="again, even if they are here")
    command.set_defaults(run=_download)

    for name, text in (("import", "convert a downloaded file into the cache"), ("convert", "convert it into a file")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file")
        if name == "convert":
            command.add_argument("output", help="a new .safetensors file")
        command.add_argument("--model", metavar="NAME", help="the model, where the file fits several")
        command.add_argument(
            "--ema",
            action=argparse.BooleanOptionalAction,
            help="averaged weights or plain ones; default: averaged ones if the file has them",
        )
        command.set_defaults(run=_import if name == "import" else _convert)

    command = commands.add_parser("verify", help="recompute hashes and, with --data, top-1")
    command.add_argument("names", nargs="*", metavar="NAME", help="default: all that are here")
    command.add_argument("--data", help="ImageNet: a folder with validation/CLASS/IMAGE")
    command.add_argument("--batch-size", type=int, default=64)
    command.add_argument("--workers", type=int, default=2)
    command.add_argument("--device", default="auto")
    command.set_defaults(run=_verify)

    command = commands.add_parser("export", help="a folder for the Hugging Face hub")
    command.add_argument("name")
    command.add_argument("folder")
    command.set_defaults(run=_export)

    args = parser.parse_args(argv)
    args.run(args)
    return 0


def _list(args: argparse.Namespace) -> None:
    here = weights.imported()
    rows = [
        (entry.name, "here" if entry.name in here else "direct link" if entry.url else "by hand", entry.about)
        for model in backbones.list_models()
        for entry in weights.sources(model)
        if entry.facts and fnmatch.fnmatch(entry.name, args.filter)
    ]
    if not rows:
        raise ValueError(f'no published weights are called "{args.filter}"')
    wide = max(len(name) for name, *_ in rows)
    for name, how, about in rows:
        print(f"{name:<{wide}}  {how:<11}  {about}")


def _info(args: argparse.Namespace) -> None:
    entry = weights.source(args.name)
    print(backbones.info(entry.model if entry.dense or not entry.tag else entry.name))
    print(f"\n{entry.name}")
    for key, value in (entry.facts | (cache.record(entry.name) or {"file here": "none"})).items():
        if value is not None:
            print(f"  {key:<15} {value}")
    if not entry.url:
        print(weights.by_hand(entry))


def _download(args: argparse.Namespace) -> None:
    for name in args.names:
        path = weights.download(name, local_files_only=args.cache_only, force=args.force, progress=True)
        print(f"{weights.source(name).name}: {path}")


def _import(args: argparse.Namespace) -> None:
    entry, path = weights.import_file(args.file, args.model, args.ema)
    known = cache.record(entry.name)
    print(f"{args.file} is {entry.name} ({'averaged' if known['averaged'] else 'plain'} weights): {path}")
    print(f"  sha256 {known['source_sha256']}, {'as published' if known['source_checked'] else 'none published'}")
    print(f"  load it with {_call(entry)}")


def _call(entry: weights.Source) -> str:
    features = ", features_only=True" if entry.dense else ""
    return f'timm.create_model("{entry.name}", pretrained=True{features})'


def _convert(args: argparse.Namespace) -> None:
    output = Path(args.output)
    if output.suffix != ".safetensors":
        raise ValueError(f"{output} must end in .safetensors")
    entry, tensors, _ = weights.convert(args.file, args.model, args.ema)
    print(f"{args.file} is {entry.name}: {output}, sha256 {cache.save(tensors, output)}")


def _verify(args: argparse.Namespace) -> None:
    names = args.names or list(weights.imported())
    if not names:
        raise ValueError(f"nothing was imported into {weights.folder()}")
    problems = []
    for name in names:
        try:
            print(weights.verify(name))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    for name in names if args.data else ():
        result = weights.top1(name, args.data, batch_size=args.batch_size, workers=args.workers, device=args.device)
        published = "not published" if result["published"] is None else f"published {result['published']}%"
        print(f"{name}: top-1 {result['top1']:.3f}% of {result['images']} images, {published}")


def _export(args: argparse.Namespace) -> None:
    print(weights.export(args.name, args.folder))


def run() -> None:
    cli.run(main, interrupted="interrupted; downloads go on from there when you run it again")


if __name__ == "__main__":
    run()
