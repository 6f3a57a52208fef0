// Teach, Review and Train. The server holds everything; this page shows it and asks for changes.
"use strict";
const find = (selector) => document.querySelector(selector);
const view = location.pathname.slice(1);
const MORE = 100; // examples shown at once
let project = null, shown = MORE, queue = "unlabelled", position = 0, mark = {};

// An element; every text is text, whatever characters a name has.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

// Replace the children of a part where they differ, and leave the focus where it is.
const drawn = new Map();
function draw(selector, data, children) {
  const key = JSON.stringify(data), place = find(selector);
  if (drawn.get(selector) === key) return;
  const focus = document.activeElement;
  if (place.contains(focus) && focus.matches("input:not([type=file])")) {
    // What is being typed is not taken away; it is drawn when the field is left.
    focus.addEventListener("blur", () => setTimeout(show), { once: true });
    return;
  }
  drawn.set(selector, key);
  const id = place.contains(focus) ? focus.id : "";
  place.replaceChildren(...children().flat(Infinity).filter(Boolean));
  if (id) document.getElementById(id)?.focus();
}

// A player that is taken away meanwhile breaks its promise.
const start = (player) => player.play().catch(() => {});

function complain(sentence) {
  find("#problem").textContent = sentence;
  find("#problem").hidden = !sentence;
}

async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("The page's server does not answer; start `actionrec app` again. What was " +
      "labelled is kept.");
  }
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({
    error: "Something unforeseen went wrong; the terminal says what." }));
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

async function act(name, values = {}) {
  try {
    await ask(`/project/${name}`, { method: "POST", body: JSON.stringify(values),
      headers: { "content-type": "application/json" } });
    complain("");
    return true;
  } catch (error) {
    complain(error.message);
    return error;
  } finally {
    await refresh(true);
  }
}

let lost = false;
async function refresh(always = false) {
  try {
    const answer = await ask(`/project${always || !project ? "" : `?seen=${project.state}`}`);
    if (lost) { lost = false; complain(""); }
    if (answer) { project = answer; show(); }
  } catch (error) {
    lost = true;
    complain(error.message);
  }
}

const row = ({ path, label, group, start, end }) => ({ path, label, group, start, end });
const edit = (words, removed, added) => act("rows", { words, removed, added });
const percent = (share) => `${Math.round(100 * share)} %`;
const clock = (seconds) => {
  const tenths = Math.round(seconds * 10);
  const minutes = Math.floor(tenths / 600), rest = ((tenths % 600) / 10).toFixed(1);
  return `${minutes}:${rest.padStart(4, "0")}`;
};
const partOf = (each) => each.start == null ? "" : `${clock(each.start)} – ${clock(each.end)}`;
const address = (what, path) => `/project/${what}?path=${encodeURIComponent(path)}`;
const groupOf = (path) => project.examples.find((x) => x.path === path)?.group ??
  path.replace(/^videos\//, "").replace(/\.[^.]*$/, "");
const names = () => project.classes.map((each) => each.name);

function show() {
  if (project.problem) complain(project.problem);
  const figure = project.figure;
  find("#figure").textContent = figure ? `${percent(figure.right / figure.examples)} right: ` +
    `${figure.right} of ${figure.examples} examples of ${figure.groups} groups ` +
    `(95 % interval ${percent(figure.low)} to ${percent(figure.high)})` : "";
  find("#words").textContent = project.words;
  find("#news").textContent = find("#figure").textContent;
  find("#doing").hidden = !project.doing;
  if (project.doing) {
    find("#doing span").textContent = project.doing[0];
    find("#doing progress").value = project.doing[1];
  }
  find("#undo").disabled = !project.undo;
  find("#undo").textContent = project.undo ? `Undo: ${project.undo}` : "Undo";
  ({ teach: showTeach, review: showReview, train: showTrain })[view]();
}

// Teach

function showTeach() {
  find("#project-folder").textContent = project.folder;
  draw("#class-list", project.classes, () => project.classes.map(({ name, examples }, number) =>
    make("li", {},
      make("b", {}, name), make("span", { class: "soft" }, `${examples} examples`),
      make("button", { type: "button", id: `rename-${number}`, "aria-label": `Rename ${name}`,
        onclick: () => rename(name) }, "Rename"),
      make("button", { type: "button", id: `remove-${number}`, "aria-label": `Remove ${name}`,
        onclick: () => act("class/remove", { name }) }, "Remove"))));
  const chosen = find("#add-label").value;
  draw("#add-label", names(), () => [
    ...names().map((name) => make("option", { value: `=${name}` }, name)),
    make("option", { value: "folder" }, "the class that their folder is called"),
    make("option", { value: "" }, "I'll say later")]);
  if (chosen && [...find("#add-label").options].some((each) => each.value === chosen)) {
    find("#add-label").value = chosen;
  }
  showExamples();
  showMarker();
}

// Names that only differ by upper case are one.
const folded = (name) => name.normalize("NFKC").toLowerCase();
async function rename(old) {
  const name = prompt(`New name of ${old}`, old)?.trim();
  if (!name || name === old) return;
  const other = names().find((each) => each !== old && folded(each) === folded(name));
  if (other && !confirm(`There is a class ${other} already. Put both together?`)) return;
  await act("class/rename", { old, new: name, merge: !!other });
}

function showExamples() {
  const wanted = find("#search").value.trim().toLowerCase();
  const all = [...project.examples, ...project.unlabelled].filter((each) =>
    [each.name, each.label, each.group].join(" ").toLowerCase().includes(wanted));
  const some = all.slice(0, shown);
  draw("#example-list", [some, names()], () => some.map((each, number) => make("li", {},
    each.thumbnails ? make("img", { src: address("thumbnails", each.path), alt: "" }) :
      make("span", { class: "soft" }, each.problem ? "" : "…"),
    make("span", { class: "name" }, each.name,
      make("span", { class: "soft" }, ` ${partOf(each)} `),
      each.problem && make("span", { class: "bad" }, each.problem),
      !each.problem && each.label && !each.is_known &&
        make("span", { class: "soft" }, "not looked at yet")),
    make("span", { class: "row" },
      make("label", {}, make("span", { class: "unseen" }, `Class of ${each.name}`),
        make("select", { id: `label-${number}`, onchange: (event) => relabel(each, event.target.value) },
          make("option", { value: "", selected: !each.label, disabled: !!each.label }, "no label"),
          names().map((name) => make("option", { value: name, selected: name === each.label }, name)))),
      each.label && make("label", {}, make("span", { class: "unseen" }, `Group of ${each.name}`),
        make("input", { id: `group-${number}`, value: each.group, size: 12, maxlength: 100,
          onchange: (event) => regroup(each, event.target.value) })),
      each.duration && make("button", { type: "button", id: `mark-${number}`,
        "aria-label": `Play ${each.name}`, onclick: () => play(each) }, "Play"),
      make("button", { type: "button", id: `drop-${number}`, "aria-label": `Drop ${each.name}`,
        onclick: () => leaveOut(each) }, "Drop")))));
  find("#more").hidden = all.length <= shown;
}

// All parts of a video are of one group.
function regroup({ path, name }, group) {
  const parts = project.examples.filter((each) => each.path === path).map(row);
  return edit(`group of ${name}`, parts, parts.map((each) => ({ ...each, group })));
}
const relabel = (each, label) => each.label
  ? edit(`${each.name} is ${label}`, [row(each)], [{ ...row(each), label }])
  : edit(`${each.name} is ${label}`, [], [{ path: each.path, label, group: groupOf(each.path) }]);
const leaveOut = (each) => each.start == null ? act("drop", { path: each.path })
  : edit(`drop a part of ${each.name}`, [row(each)], []);

function play(each) {
  find("#mark-video").value = each.path;
  chooseVideo(each.path);
  find("#mark").scrollIntoView({ behavior: "smooth" });
  const player = find("#mark-player");
  player.addEventListener("loadedmetadata", () => {
    if (each.start != null) player.currentTime = each.start;
    start(player);
  }, { once: true });
  player.load();
}

// Uploads, a few at a time.

const waiting = [];
let sending = 0;
function take(files, label) {
  for (const { file, folder } of files) {
    const of = label === "folder" ? folder : label.slice(1);
    const progress = make("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
    const item = make("li", {}, make("span", {}, file.name), progress);
    find("#uploads").append(item);
    waiting.push({ file, label: of, item, progress });
  }
  sendNext();
}

function sendNext() {
  while (sending < 2 && waiting.length) {
    sending += 1;
    send(waiting.shift()).finally(() => { sending -= 1; sendNext(); });
  }
}

let known = 0;
function tellKnown() {
  known += 1;
  const words = known === 1 ? "1 file was here already." : `${known} files were here already.`;
  (find("#known") ?? find("#uploads").appendChild(make("li", { id: "known", class: "soft" })))
    .textContent = words;
}

function send({ file, label, item, progress }) {
  return new Promise((done) => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ name: file.name, label });
    request.open("PUT", `/project/videos?${query}`);
    request.upload.onprogress = (event) => { progress.value = event.loaded / event.total; };
    request.onloadend = async () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* the sentence below says it */ }
      progress.remove();
      if (request.status === 200 && answer.new) item.remove();
      else if (request.status === 200) { item.remove(); tellKnown(); }
      else item.append(make("span", { class: "bad" }, answer.error ?? "The server does not answer."));
      // Thousands of files would ask for everything thousands of times.
      if (!waiting.length) await refresh(true);
      done();
    };
    request.send(file);
  });
}

const chosenFiles = (input) => {
  const files = [...input.files].map((file) => ({ file,
    folder: file.webkitRelativePath.split("/").at(-2) ?? "" }));
  input.value = "";
  return files.filter(({ file }) => !file.name.startsWith("."));
};

async function dropped(entries, folder = "") {
  const found = [];
  for (const entry of entries) {
    if (entry.name.startsWith(".")) continue;
    if (entry.isFile) {
      found.push({ file: await new Promise((done, fail) => entry.file(done, fail)), folder });
    } else {
      const reader = entry.createReader();
      for (;;) { // It gives a hundred at a time.
        const some = await new Promise((done, fail) => reader.readEntries(done, fail));
        if (!some.length) break;
        found.push(...await dropped(some, entry.name));
      }
    }
  }
  return found;
}

// The camera records until the button is pressed again.

async function record(button, whenDone) {
  if (button.recorder) { button.recorder.stop(); return; }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    complain(`The camera can't be used (${error.message || error.name}); allow it in the browser, ` +
      "or choose a file.");
    return;
  }
  const camera = find("#camera"), parts = [];
  let recorder;
  try {
    recorder = button.recorder = new MediaRecorder(stream);
  } catch (error) {
    stream.getTracks().forEach((track) => track.stop());
    complain(`This browser can't record the camera (${error.message}); choose a file.`);
    return;
  }
  camera.srcObject = stream;
  camera.hidden = false;
  start(camera);
  const words = button.textContent;
  button.textContent = "Stop";
  const ended = () => recorder.state !== "inactive" && recorder.stop();
  stream.getVideoTracks()[0].addEventListener("ended", ended);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    camera.hidden = true;
    button.recorder = null;
    button.textContent = words;
    const suffix = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
    const time = new Date().toISOString().slice(0, 19).replaceAll(":", ".");
    whenDone(new File(parts, `camera ${time}.${suffix}`));
  };
  recorder.start(500);
}

// Parts of a long video.

function showMarker() {
  const videos = [...new Map([...project.examples, ...project.unlabelled]
    .filter((each) => each.duration).map((each) => [each.path, each.name])).entries()].sort();
  const chosen = find("#mark-video").value;
  draw("#mark-video", videos, () => [make("option", { value: "" }, "choose"),
    ...videos.map(([path, name]) => make("option", { value: path }, name))]);
  find("#mark-video").value = chosen;
  draw("#mark-classes", names(), () => names().map((name, number) =>
    make("button", { type: "button", id: `as-${number}`, onclick: () => keepPart(name),
      "aria-keyshortcuts": number < 9 ? number + 1 : null },
      number < 9 ? `${number + 1} ${name}` : name)));
  showParts();
}

function chooseVideo(path) {
  mark = { path };
  const each = [...project.examples, ...project.unlabelled].find((x) => x.path === path);
  find("#marker").hidden = !each;
  if (!each) return;
  mark.duration = each.duration;
  find("#mark-player").src = address("play", path);
  find("#strip").style.backgroundImage = `url("${address("thumbnails", path)}")`;
  drawn.delete("#parts");
  drawn.delete("#strip");
  showParts();
}

function showParts() {
  if (!mark.path) return;
  const parts = project.examples.filter((x) => x.path === mark.path && x.start != null)
    .sort((a, b) => a.start - b.start);
  const now = find("#mark-player").currentTime;
  draw("#parts", parts, () => parts.map((each, number) => make("li", {},
    make("b", {}, each.label), make("span", {}, partOf(each)),
    make("button", { type: "button", id: `part-${number}`,
      "aria-label": `Play ${each.label}, ${partOf(each)}`,
      onclick: () => { const p = find("#mark-player"); p.currentTime = each.start; start(p); } },
      "Play"),
    make("button", { type: "button", id: `gone-${number}`,
      "aria-label": `Remove ${each.label}, ${partOf(each)}`, onclick: () => leaveOut(each) },
      "Remove"))));
  const place = (from, to) => `left:${100 * from / mark.duration}%;` +
    `width:${100 * Math.max(0, to - from) / mark.duration}%`;
  const open = mark.start == null ? null : [mark.start, mark.end ?? Math.max(now, mark.start)];
  draw("#strip", [parts, open, now], () => [
    ...parts.map((each) => make("span", { style: place(each.start, each.end) }, each.label)),
    open && make("span", { class: "open", style: place(...open) }),
    make("i", { style: `left:${100 * now / mark.duration}%` })]);
  const strip = find("#strip");
  strip.setAttribute("aria-valuemax", mark.duration);
  strip.setAttribute("aria-valuenow", now.toFixed(2));
  strip.setAttribute("aria-valuetext", clock(now));
  find("#mark-times").textContent = mark.start == null ? clock(now) :
    `${clock(mark.start)} – ${mark.end == null ? "…" : clock(mark.end)}`;
}

function setMark(which) {
  mark[which] = Math.round(1000 * find("#mark-player").currentTime) / 1000;
  if (which === "start") delete mark.end;
  showParts();
}

async function keepPart(label) {
  const end = mark.end ?? Math.round(1000 * find("#mark-player").currentTime) / 1000;
  if (mark.start == null || end <= mark.start) {
    complain("Set the start of the part with I, go to its end, then give it a class.");
    return;
  }
  const part = { path: mark.path, label, group: groupOf(mark.path), start: mark.start, end };
  if (await edit(`${label} in ${mark.path.replace(/^videos\//, "")}`, [], [part]) === true) {
    delete mark.start;
    delete mark.end;
    showParts();
  }
}

function move(seconds) {
  const player = find("#mark-player");
  player.currentTime = Math.min(Math.max(0, player.currentTime + seconds), mark.duration);
  showParts();
}

function markKey(event) {
  if (!mark.path) return false;
  const player = find("#mark-player"), name = names()[Number(event.key) - 1];
  const keys = {
    i: () => setMark("start"), o: () => setMark("end"),
    " ": () => player.paused ? start(player) : player.pause(),
    ArrowLeft: () => move(-1), ArrowRight: () => move(1),
    ",": () => move(-0.04), ".": () => move(0.04),
  };
  const key = keys[event.key.toLowerCase()] ?? keys[event.key];
  if (key) key();
  else if (/^[1-9]$/.test(event.key) && name) keepPart(name);
  else return false;
  return true;
}

// Try it.

async function tryIt(file) {
  const place = find("#tried");
  place.replaceChildren(make("p", {}, `Looking at ${file.name} …`));
  try {
    const answer = await ask(`/project/try?name=${encodeURIComponent(file.name)}`,
      { method: "POST", body: file });
    place.replaceChildren(make("p", {}, `${file.name}: `, make("b", {}, answer.top[0].label)),
      bars(answer.top));
  } catch (error) {
    place.replaceChildren(make("p", { class: "bad" }, error.message));
  }
}

const bars = (top) => make("dl", { class: "bars" }, top.map(({ label, score }) => [
  make("dt", {}, label),
  make("dd", {}, make("meter", { value: score, "aria-label": `Score of ${label}` })),
  make("dd", {}, percent(score))]));

// Review

const seen = new Set(JSON.parse(sessionStorage.getItem("seen") ?? "[]"));
const keyOf = (each) => JSON.stringify([each.path, each.start ?? null, each.end ?? null, each.label]);
const queues = {
  unlabelled: () => project.unlabelled.filter((each) => !each.problem),
  mistakes: () => judged().filter((each) => each.judgement.label !== each.label)
    .sort((a, b) => b.judgement.score - a.judgement.score),
  unsure: () => judged().sort((a, b) => a.judgement.own - b.judgement.own),
};
const judged = () => project.examples.filter((each) => each.judgement && !seen.has(keyOf(each)));

function showReview() {
  for (const button of document.querySelectorAll("[data-queue]")) {
    button.setAttribute("aria-pressed", button.dataset.queue === queue);
  }
  const items = queues[queue]();
  position = Math.min(Math.max(0, position), Math.max(0, items.length - 1));
  const each = items[position];
  draw("#card", [queue, items.length, position, each && [keyOf(each), each.judgement,
    each.suggestion, !!each.duration], names()], () => each ? card(each, items.length) : [
    make("p", {}, queue === "unlabelled" ? "There are no unlabelled videos." :
      "There is nothing to review here.")]);
}

function card(each, count) {
  const player = make("video", { controls: true, muted: true, playsinline: true, autoplay: true,
    src: each.duration ? address("play", each.path) : null, "aria-label": each.name });
  player.muted = true;
  const from = each.start ?? 0, to = each.end ?? Infinity;
  player.addEventListener("loadedmetadata", () => { player.currentTime = from; });
  const again = () => { player.currentTime = from; start(player); };
  player.addEventListener("timeupdate", () => { if (player.currentTime >= to) again(); });
  player.addEventListener("ended", again);
  const says = each.judgement ?? each.suggestion;
  return [player, make("div", {},
    make("h2", {}, each.name, " ", make("span", { class: "soft" }, partOf(each))),
    each.label && make("p", {}, "Labelled ", make("b", {}, each.label), "."),
    says && make("p", {}, each.label ? "A head that has not seen it says " : "It looks like ",
      make("b", {}, says.label), `, ${percent(says.score)}.`),
    make("div", { class: "row" },
      (each.label || says) && make("button", { type: "button", id: "accept", class: "main",
        onclick: () => accept(each) }, each.label ? `Keep ${each.label}` : `It is ${says.label}`),
      make("button", { type: "button", id: "drop-it", onclick: () => leaveOut(each) }, "Drop (D)")),
    make("div", { class: "row", role: "group", "aria-label": "Give another label" },
      names().map((name, number) => make("button", { type: "button", id: `give-${number}`,
        onclick: () => relabel(each, name) }, number < 9 ? `${number + 1} ${name}` : name))),
    make("div", { class: "row" },
      make("button", { type: "button", id: "previous", disabled: position === 0,
        onclick: () => go(-1) }, "Previous"),
      make("span", {}, `${position + 1} of ${count}`),
      make("button", { type: "button", id: "next", disabled: position + 1 >= count,
        onclick: () => go(1) }, "Next")))];
}

function go(step) {
  position += step;
  showReview();
}

function accept(each) {
  if (!each.label) { relabel(each, each.suggestion.label); return; }
  seen.add(keyOf(each));
  sessionStorage.setItem("seen", JSON.stringify([...seen]));
  showReview();
}

function reviewKey(event) {
  const each = queues[queue]()[position], name = names()[Number(event.key) - 1];
  if (event.key === "ArrowRight" || event.key === "ArrowDown") go(1);
  else if (event.key === "ArrowLeft" || event.key === "ArrowUp") go(-1);
  else if (!each) return false;
  else if (event.key === "Enter" && (each.label || each.suggestion)) accept(each);
  else if (event.key.toLowerCase() === "d") leaveOut(each);
  else if (/^[1-9]$/.test(event.key) && name) relabel(each, name);
  else return false;
  return true;
}

// Train

function showTrain() {
  draw("#head-files", project.learnt, () => project.learnt.length ? [
    make("a", { href: "/project/model.safetensors", download: true }, "Model file"),
    make("a", { href: "/project/model.onnx", download: true }, "ONNX"),
    make("span", { class: "soft" }, "for actionrec predict --model FILE")] :
    [make("span", { class: "soft" }, project.words)]);
  draw("#runs", project.runs, () => project.runs.toReversed().map((run) => make("li", {},
    make("h3", {}, `Run ${run.name}: ${run.status}`),
    run.status === "running" && make("label", {}, [
      run.folds > 1 && `fold ${run.fold} of ${run.folds}`,
      run.of ? `epoch ${Math.min(run.epochs.length + 1, run.of)} of ${run.of}` : "beginning",
      run.seconds_left && remaining(run.seconds_left)].filter(Boolean).join(", "), " ",
      make("progress", { value: run.of ? doneOf(run) : null })),
    run.epochs.length > 0 && curve(run),
    run.problem && make("p", { class: "bad" }, run.problem),
    run.comparison && verdict(run),
    make("div", { class: "row" },
      ["running", "comparing"].includes(run.status) && make("button", { type: "button",
        id: `stop-${run.name}`, onclick: () => act("train/stop") }, "Stop"),
      ["stopped", "failed"].includes(run.status) && make("button", { type: "button",
        id: `on-${run.name}`, onclick: () => act("train/go-on", { run: run.name }) }, "Go on"),
      (run.epochs.length > 0 || run.fold > 1) && [
        make("a", { href: `/project/model.safetensors?run=${run.name}`, download: true },
          "Model file"),
        make("a", { href: `/project/model.onnx?run=${run.name}`, download: true }, "ONNX"),
        run.folds > 1 && make("span", { class: "soft" },
          "of the network that has learnt from all folds but the first")]),
    make("p", { class: "hint" }, "The same again: ", make("code", {}, run.command)))));
}

const remaining = (seconds) => {
  const minutes = Math.ceil(seconds / 60);
  return minutes < 2 ? "about a minute left" : minutes < 100 ? `about ${minutes} minutes left` :
    `about ${Math.round(minutes / 60)} hours left`;
};
const doneOf = ({ fold, folds, epochs, of }) => (fold - 1 + epochs.length / of) / folds;

// Both on the same held-out examples, and which of them to keep.
function verdict({ status, comparison, fine_tuned: tuned, head_alone: head, folds, fold }) {
  if (!tuned || !head) return null;
  const words = ({ right, examples, low, high }) => `${right} rightly, ` +
    `${percent(right / examples)} (95 % interval ${percent(low)} to ${percent(high)})`;
  const share = ({ right, examples }) => right / examples;
  const within = (one, other) => other.low <= share(one) && share(one) <= other.high;
  const groups = comparison.groups ? ` of ${comparison.groups} groups` : "";
  const done = status === "done" ? "Of" : `After ${fold - 1} of ${folds} folds: of`;
  return make("p", {}, `${done} ${tuned.examples} held-out examples${groups} the fine-tuned ` +
    `network names ${words(tuned)}; the head alone ${words(head)}. `,
    status === "done" && [make("b", {}, tuned.right > head.right ? "Keep the fine-tuned one." :
      "Keep the head alone."), tuned.right !== head.right && within(tuned, head) &&
      within(head, tuned) ? " The difference may be chance." : ""]);
}

function curve({ epochs, of }) {
  const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "curve");
  svg.setAttribute("viewBox", "0 0 400 120");
  svg.setAttribute("role", "img");
  const last = epochs.at(-1);
  svg.setAttribute("aria-label", `After epoch ${last.epoch}: training loss ` +
    `${last.train_loss.toFixed(2)}, validation Top-1 ${percent(last.val_top1)}`);
  const most = Math.max(...epochs.map((each) => each.train_loss), 1e-6);
  const x = (epoch) => 10 + 380 * epoch / Math.max(of ?? 1, epochs.length);
  const lines = [["train_loss", most, "#c2571a", `training loss ${last.train_loss.toFixed(2)}`],
    ["val_top1", 1, "#1f4fbf", `validation Top-1 ${percent(last.val_top1)}`]];
  lines.forEach(([name, scale, colour, words], number) => {
    const line = document.createElementNS(space, "polyline");
    line.setAttribute("points", epochs.map((each) =>
      `${x(each.epoch)},${105 - 90 * each[name] / scale}`).join(" "));
    line.setAttribute("stroke", colour);
    const text = document.createElementNS(space, "text");
    text.setAttribute("x", 10 + 190 * number);
    text.setAttribute("y", 118);
    text.textContent = `${number ? "blue" : "orange"}: ${words}`;
    svg.append(line, text);
  });
  return svg;
}

// What the user does.

function begin() {
  find(`#${view}`).hidden = false;
  find(`nav a[href="/${view}"]`).setAttribute("aria-current", "page");
  document.title = `${find(`#${view} h1`).textContent} – actionrec`;
  find("#undo").onclick = () => act("undo");
  find("#new-class").onsubmit = async (event) => {
    event.preventDefault();
    const field = find("#new-class-name"), name = field.value;
    if (await act("class/add", { name }) === true) {
      field.value = "";
      find("#add-label").value = `=${name.trim()}`;
    }
  };
  for (const id of ["#files", "#folder"]) {
    find(id).onchange = (event) => take(chosenFiles(event.target), find("#add-label").value);
  }
  find("#record").onclick = (event) => record(event.target,
    (file) => take([{ file, folder: "" }], find("#add-label").value));
  find("#try-file").onchange = (event) => chosenFiles(event.target).forEach(({ file }) => tryIt(file));
  find("#try-record").onclick = (event) => record(event.target, tryIt);
  const zone = find("#drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", () => zone.classList.remove("over"));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry());
    try {
      take(await dropped(entries.filter(Boolean)), find("#add-label").value);
    } catch (error) {
      complain(`What was dropped can't be read (${error.message}); drop it again, or choose it.`);
    }
  });
  find("#search").oninput = () => { shown = MORE; showExamples(); };
  find("#more").onclick = () => { shown += MORE; showExamples(); };
  for (const button of document.querySelectorAll("[data-group]")) {
    button.onclick = () => act("group", { by: button.dataset.group });
  }
  find("#mark-video").onchange = (event) => chooseVideo(event.target.value);
  find("#mark-start").onclick = () => setMark("start");
  find("#mark-end").onclick = () => setMark("end");
  find("#mark-player").ontimeupdate = showParts;
  find("#mark-player").onseeked = showParts;
  find("#strip").onclick = (event) => {
    const box = find("#strip").getBoundingClientRect();
    find("#mark-player").currentTime = mark.duration * (event.clientX - box.left) / box.width;
  };
  for (const button of document.querySelectorAll("[data-queue]")) {
    button.onclick = () => { queue = button.dataset.queue; position = 0; showReview(); };
  }
  find("#start").onsubmit = (event) => {
    event.preventDefault();
    const epochs = find("#epochs").valueAsNumber;
    act("train/start", { epochs: Number.isNaN(epochs) ? null : epochs, folds: find("#folds").value });
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    // A button answers to space and Enter itself.
    const pressed = event.target.matches("button, a, video") && [" ", "Enter"].includes(event.key);
    if (!project || typing || pressed || event.ctrlKey || event.metaKey || event.altKey) return;
    if (({ teach: markKey, review: reviewKey })[view]?.(event)) event.preventDefault();
  });
  refresh(true);
  setInterval(() => { if (!document.hidden) refresh(); }, 1000);
}

begin();
