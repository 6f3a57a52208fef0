"""HMDB51 by its official split files: odd names, layouts, subsets and damaged files."""

import re

import pytest

from actionrec.datasets.hmdb51 import LABELS, open_hmdb51
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, UsageError

# Names of the official lists, with the characters and the ten people that trip a naming rule.
ODD = [
    "#2_Gum_chew_h_nm_np1_fr_med_0",
    "Blowing_Bubbles!_chew_h_nm_np1_fr_goo_2",
    "Geena_und_die_Radschl_ge___;-)_cartwheel_f_cm_np1_fr_med_2",
    "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0",
    "jenny_~_rad_cartwheel_f_cm_np1_ri_med_0",
    "Brushing_Her_Hair__[_NEW_AUDIO_]_UPDATED!!!!_brush_hair_h_cm_np1_fr_goo_0",
    "Smile!_smile_h_cm_np1_fr_goo_0",
    "Smile_smile_h_cm_np1_fr_goo_0",
    "boom-snap-clap_clap_u_nm_np1_fr_med_0",
    "Boom_Snap_Clap_clap_u_nm_np1_fr_med_0",
    "metacafe_coolsoccer_run_f_cm_np10_le_bad_2",
]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def class_of(stem):
    found = re.search("_({})_[fhlu]_[cn]m_np".format("|".join(LABELS)), stem)
    return found[1]


def write_splits(folder, split=1):
    """Write 51 split files as the official ones are: 70, 30 and unused, a space at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LABELS:
        stems = [stem for stem in ODD if class_of(stem) == name]
        stems += [f"Film{n // 5}_{name}_u_nm_np1_fr_goo_{n}" for n in range(103 - len(stems))]
        lines = [
            f"{stem}.avi {1 if n < 70 else 2 if n < 100 else 0} \n" for n, stem in enumerate(stems)
        ]
        (folder / f"{name}_test_split{split}.txt").write_text("".join(lines))


@pytest.fixture
def root(tmp_path):
    """Split files in the official folder, and of two classes two clips that train and one that
    tests."""
    write_splits(tmp_path / "testTrainMulti_7030_splits")
    for name in ("run", "wave"):
        touch(
            tmp_path / "hmdb51_org" / name,
            *(f"Film{n // 5}_{name}_u_nm_np1_fr_goo_{n}.avi" for n in (1, 8, 90, 101)),
        )
    return tmp_path


def names(videos):
    return [video.path.name for video in videos]


def test_labels_are_the_51_sorted_names():
    assert len(LABELS) == 51 and list(LABELS) == sorted(LABELS)


def test_split_files_divide_and_unused_videos_are_in_neither(root, caplog):
    dataset = open_dataset("hmdb51", str(root))
    assert dataset.labels == LABELS and dataset.flip
    assert names(dataset.train) == [
        "Film0_run_u_nm_np1_fr_goo_1.avi",
        "Film1_run_u_nm_np1_fr_goo_8.avi",
        "Film0_wave_u_nm_np1_fr_goo_1.avi",
        "Film1_wave_u_nm_np1_fr_goo_8.avi",
    ]
    assert names(dataset.val) == [
        "Film18_run_u_nm_np1_fr_goo_90.avi",
        "Film18_wave_u_nm_np1_fr_goo_90.avi",
    ]
    assert {dataset.labels[video.label] for video in dataset.val} == {"run", "wave"}
    assert "4 of the 3570 training and 2 of the 1530 test videos of split 1" in caplog.text
    assert "49 classes have none (brush_hair, cartwheel, catch and 46 more)" in caplog.text


def test_group_is_the_film_so_that_leakage_between_classes_shows(root):
    dataset = open_hmdb51(root)
    assert [video.group for video in dataset.train] == ["Film0", "Film1", "Film0", "Film1"]
    assert {video.group for video in dataset.val} == {"Film18"}


def test_whole_data_set_has_the_official_counts_and_no_warning(tmp_path, caplog):
    write_splits(tmp_path)
    for file in tmp_path.glob("*_test_split1.txt"):
        label = file.name.removesuffix("_test_split1.txt")
        touch(tmp_path / label, *(line.split()[0] for line in file.read_text().splitlines()))
    dataset = open_hmdb51(tmp_path)
    assert (len(dataset.train), len(dataset.val)) == (3570, 1530)
    assert not caplog.records


@pytest.mark.parametrize("cleaned", [False, True])
def test_odd_names_are_found_as_published_and_with_underscores_instead(tmp_path, cleaned):
    write_splits(tmp_path)
    stems = [re.sub("[^A-Za-z0-9]", "_", stem) if cleaned else stem for stem in ODD]
    touch(tmp_path, *(f"{class_of(stem)}/{stem}.avi" for stem in stems))
    touch(tmp_path, "wave/Film18_wave_u_nm_np1_fr_goo_90.avi")
    dataset = open_hmdb51(tmp_path)
    assert sorted(names(dataset.train)) == sorted(f"{stem}.avi" for stem in stems)
    for video in dataset.train:
        assert dataset.labels[video.label] == class_of(video.path.name)


@pytest.mark.parametrize("videos", [".", "hmdb51", "hmdb51_org", "videos"])
@pytest.mark.parametrize(
    "splits", [".", "testTrainMulti_7030_splits", "test_train_splits", "splits", "annotations"]
)
def test_layouts_that_people_have(tmp_path, videos, splits):
    write_splits(tmp_path / splits)
    stems = [f"Film{n // 5}_wave_u_nm_np1_fr_goo_{n}.avi" for n in (1, 90)]
    touch(tmp_path / videos / "wave", *stems)
    assert names(open_hmdb51(tmp_path).val) == stems[1:]
    # The folder of the videos itself may be given, with the split files beside it.
    assert names(open_hmdb51(tmp_path / videos).val) == stems[1:]


def test_classes_unpacked_in_folders_of_their_own_flat_folders_and_other_containers(tmp_path):
    write_splits(tmp_path / "splits")
    touch(
        tmp_path / "videos",
        "wave/wave/Film0_wave_u_nm_np1_fr_goo_1.avi",
        "Film18_wave_u_nm_np1_fr_goo_90.mp4",
        "wave/._Film18_wave_u_nm_np1_fr_goo_90.avi",
    )
    dataset = open_hmdb51(tmp_path)
    assert (len(dataset.train), len(dataset.val)) == (1, 1)


def test_videos_in_no_split_file_are_left_out_with_a_warning(root, caplog):
    touch(root, "hmdb51_org/wave/holiday.avi")
    assert len(open_hmdb51(root).train) == 4
    assert "no split file lists are left out: 1" in caplog.text and "holiday.avi" in caplog.text


def test_without_split_files_the_sentence_says_which_from_where_and_where_to(tmp_path):
    touch(tmp_path, "wave/Film0_wave_u_nm_np1_fr_goo_1.avi")
    with pytest.raises(ActionrecError) as error:
        open_hmdb51(tmp_path, "2")
    text = str(error.value)
    assert "CLASS_test_split2.txt" in text and f"not in {tmp_path}" in text
    assert "test_train_splits.rar from https://serre-lab.clps.brown.edu/" in text


def test_each_split_has_its_own_files(root):
    write_splits(root / "testTrainMulti_7030_splits", split=3)
    assert len(open_hmdb51(root, "3").train) == 4
    with pytest.raises(ActionrecError, match="CLASS_test_split2.txt"):
        open_hmdb51(root, "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(" 2", " 3", 1), "wave_test_split1.txt, line 71: .* 3' is not"),
        (lambda text: text.replace("_wave_", "_run_", 1), "line 1: 'Film0_run_.*video of wave"),
        (lambda text: text.partition("\n")[2], "has 69 videos to train and 30 to test, not 70"),
        (lambda text: "", "has 0 videos to train"),
    ],
)
def test_split_file_that_is_not_the_official_one(root, change, message):
    file = root / "testTrainMulti_7030_splits" / "wave_test_split1.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(ActionrecError, match=message):
        open_hmdb51(root)


def test_incomplete_split_files(root):
    (root / "testTrainMulti_7030_splits" / "wave_test_split1.txt").unlink()
    with pytest.raises(ActionrecError, match="wave_test_split1.txt can't be read .*all 51 files"):
        open_hmdb51(root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "No video that the split files list"),
        (["wave/holiday.avi"], "No video that the split files list"),
        (["Film18_wave_u_nm_np1_fr_goo_90.avi"], "to train on in split 1"),
        (["Film0_wave_u_nm_np1_fr_goo_1.avi"], "to validate on in split 1"),
        (
            ["Film0_wave_u_nm_np1_fr_goo_1.avi", "wave/Film0_wave_u_nm_np1_fr_goo_1.avi"],
            "there twice",
        ),
    ],
)
def test_wrong_folder_is_one_clear_error(tmp_path, files, message):
    write_splits(tmp_path)
    touch(tmp_path, *files)
    with pytest.raises(ActionrecError, match=message):
        open_dataset("hmdb51", tmp_path)


def test_missing_folder_and_split(tmp_path):
    with pytest.raises(ActionrecError, match="is not a folder"):
        open_dataset("hmdb51", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no split 'paper'; choose 1, 2, 3"):
        open_dataset("hmdb51", tmp_path, "paper")
