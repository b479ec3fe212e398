"""Configurations with options that choose a part, where the part brings options of its own.

`--model` of the benchmarks is such an option, and so are `--decoder` and `--objective` of a
captioner. In `config.json`, on the command line and as attributes, all options are on one level.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from typing import Any, Self

from captioner.errors import OptionError
from captioner.options import AT_LEAST_ONE, NOT_NEGATIVE, Options, flag, option, option_type


def option_of(options: type[Options], name: str) -> Any:
    """Return a field that is declared as this one of another class."""
    declared = options.__dataclass_fields__[name]
    return field(default=declared.default, metadata=declared.metadata)


Choices = Mapping[str, Mapping[str, type[Options]]]


@dataclass(frozen=True, kw_only=True)
class ComposedOptions(Options):
    """Options that are joined with those of the chosen parts; a subclass defines `choices`.

    Those of every training are declared here.
    """

    seed: int = option(0, "seed of everything that is drawn", within=NOT_NEGATIVE)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...", metavar="NAME", changeable=True)
    threads: int | None = option(
        None, "threads of the CPU; default: PyTorch's", within=AT_LEAST_ONE, changeable=True
    )
    save_every: float = option(
        300.0,
        "seconds between saves of last/, beside those at validations",
        within=NOT_NEGATIVE,
        changeable=True,
    )

    def planned_by_epochs(self) -> Iterable[str]:
        """Yield what depends on the number of epochs from the first step on."""
        yield from ()

    @classmethod
    def choices(cls) -> Choices:
        """Return by the name of each choosing option its parts, and the options of each part."""
        raise NotImplementedError

    @classmethod
    def chosen(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the names of the parts that `values` choose, else those chosen by default.

        Raises:
            OptionError: there is no part of such a name.
        """
        defaults = {item.name: item.default for item in fields(cls)}
        chosen = {choice: values.get(choice, defaults[choice]) for choice in cls.choices()}
        for choice, name in chosen.items():
            if name not in cls.choices()[choice]:
                allowed = " or ".join(cls.choices()[choice])
                raise OptionError(f"{flag(choice)} is {name!r}; it can be {allowed}")
        return chosen

    @classmethod
    def composed(cls, values: Mapping[str, Any]) -> type[Self]:
        """Return this class joined with the options of the parts that `values` choose.

        Raises:
            OptionError: there is no part of such a name.
        """
        parts: Any = [cls.choices()[choice][name] for choice, name in cls.chosen(values).items()]
        joined: type[Self] = _joined(cls, *parts)  # type: ignore[arg-type]
        return joined

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration with these options; what is missing takes its default.

        Options of parts that are not chosen, which earlier versions stored, are left out.

        Raises:
            OptionError: an option is unknown to this version, or its value is out of range.
        """
        foreign = cls._of_other_parts(values)
        kept = {name: value for name, value in values.items() if name not in foreign}
        return super(ComposedOptions, cls.composed(values)).from_json(kept)

    @classmethod
    def _of_other_parts(cls, values: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
        """Return the options that `values` leave out, each with a choice and a part that has it."""
        known = {item.name for item in fields(cls.composed(values))}
        found: dict[str, tuple[str, str]] = {}
        for choice, parts in cls.choices().items():
            for part, options in parts.items():
                for item in fields(options):
                    if item.name not in known:
                        found.setdefault(item.name, (choice, part))
        return found

    @classmethod
    def sizes_of_other_parts(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the whole-number options of parts that `values` do not choose.

        One command line may so serve several decoders: a size of a layer that one of them lacks
        asks for nothing there.
        """
        return [
            name
            for name, (choice, part) in cls._of_other_parts(values).items()
            if option_type(cls.choices()[choice][part], name).of is int
        ]

    @classmethod
    def refuse_other_parts(cls, values: Mapping[str, Any], flags: Iterable[str]) -> None:
        """Raise OptionError if one of the flags belongs to a part that `values` do not choose."""
        chosen = cls.chosen(values)
        others = {flag(name): found for name, found in cls._of_other_parts(values).items()}
        for word in flags:
            name = word.split("=")[0]
            choice, other = others.get(name) or others.get(name.replace("--no-", "--"), ("", ""))
            if other:
                raise OptionError(
                    f"{name} is an option of {flag(choice)} {other}, and the {choice} is "
                    f"{chosen[choice]}; leave it out, or give {flag(choice)} {other}"
                )

    def part(self, choice: str) -> Any:
        """Return the options of the part that the option `choice` chose."""
        options = self.choices()[choice][getattr(self, choice)]
        return options(**{item.name: getattr(self, item.name) for item in fields(options)})


@cache
def _joined(own: Any, *parts: Any) -> Any:
    names = [item.name for options in (own, *parts) for item in fields(options)]
    assert len(set(names)) == len(names), f"an option of {parts} has the name of another option"

    def contradictions(self: Options) -> list[str]:
        return [line for options in (own, *parts) for line in options.contradictions(self)]

    return make_dataclass(
        own.__name__,
        (),
        bases=(*parts[::-1], own),  # the last one gives the first fields
        namespace={"contradictions": contradictions},
        frozen=True,
        kw_only=True,
    )
