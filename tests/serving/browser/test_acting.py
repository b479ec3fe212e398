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


def test_no_camera_stays_on_after_two_clicks(actor: Node) -> None:
    actor.ask("openPage")
    actor.ask("click", id="camera")
    actor.ask("click", id="camera")
    assert any(actor.ask("allowCameras")["cameras"])
    assert not any(actor.ask("click", id="camera-close")["cameras"])


def test_a_camera_is_asked_for_again_after_it_was_refused_or_closed(actor: Node) -> None:
    actor.ask("openPage")
    actor.ask("click", id="camera")
    assert actor.ask("refuseCameras")["notice"].startswith("The camera cannot be used.")
    seen = actor.ask("click", id="camera")
    assert (len(seen["cameras"]), seen["notice"]) == (2, "")
    actor.ask("allowCameras")
    actor.ask("click", id="camera-close")
    assert len(actor.ask("click", id="camera")["cameras"]) == 3


def test_photographs_refused_after_a_key_was_given_are_sent_again_with_it(actor: Node) -> None:
    actor.ask("openPage")
    actor.ask("choose", names=["small.jpg", "large.jpg"])
    assert actor.ask("refuse", request=0)["wantsKey"]
    actor.ask("giveKey", key="right")
    seen = actor.ask("refuse", request=1)  # it was sent without a key
    assert (seen["notice"], seen["wantsKey"]) == ("", False)
    assert seen["asked"] == [
        ["small.jpg", None],
        ["large.jpg", None],
        ["small.jpg", "Bearer right"],
        ["large.jpg", "Bearer right"],
    ]


def test_a_wrong_key_is_told_and_the_next_one_is_sent_for_all(actor: Node) -> None:
    actor.ask("openPage")
    actor.ask("choose", names=["small.jpg", "large.jpg"])
    actor.ask("refuse", request=0)
    actor.ask("refuse", request=1)
    actor.ask("giveKey", key="wrong")
    seen = actor.ask("refuse", request=2)
    assert (seen["notice"][:34], seen["wantsKey"]) == ("The service does not know this key", True)
    actor.ask("giveKey", key="right")
    seen = actor.ask("refuse", request=3)  # it was sent with the wrong key
    assert (seen["notice"], seen["wantsKey"]) == ("", False)
    assert seen["asked"][4:] == [["small.jpg", "Bearer right"], ["large.jpg", "Bearer right"]]
