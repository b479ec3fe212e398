"""The page and the element `<photo-caption>` when things happen in an unlucky order."""

from .conftest import Node

DOG, CAT = "a dog on grass", "a cat"


def test_the_alt_text_is_never_that_of_the_picture_before(actor: Node) -> None:
    actor.ask("openElement")
    actor.ask("putIn")
    assert actor.ask("caption", text=DOG)["alt"] == "A dog on grass."
    assert actor.ask("putIn")["alt"] == ""
    seen = actor.ask("fail", code="corrupt_image")
    assert (seen["alt"], seen["problems"]) == ("", ["corrupt_image"])
    actor.ask("putIn")
    assert actor.ask("caption", text=CAT)["alt"] == "A cat."


def test_what_a_person_wrote_stays_when_another_picture_is_put_in(actor: Node) -> None:
    actor.ask("openElement")
    actor.ask("putIn")
    actor.ask("caption", text=DOG)
    actor.ask("type", text="A dog on grass, asleep.")
    assert actor.ask("putIn")["alt"] == "A dog on grass, asleep."
    assert actor.ask("caption", text=CAT)["alt"] == "A dog on grass, asleep."
    actor.ask("type", text="")
    actor.ask("putIn")
    actor.ask("type", text="My own words")  # while the picture is looked at
    assert actor.ask("caption", text=CAT)["alt"] == "My own words"


def test_the_element_captions_again_after_its_worker_stopped(actor: Node) -> None:
    actor.ask("openElement")
    actor.ask("putIn")
    seen = actor.ask("stopWorker")
    assert (seen["workers"], seen["problems"]) == (1, ["stopped"])
    assert actor.ask("putIn")["workers"] == 2
    seen = actor.ask("caption", text=CAT)
    assert (seen["alt"], seen["problems"]) == ("A cat.", ["stopped"])
    actor.ask("putIn")
    actor.ask("fail", code="corrupt_image")  # which is no reason to load the model anew
    assert actor.ask("putIn")["workers"] == 2
