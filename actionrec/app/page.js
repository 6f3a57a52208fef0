// A click on a segment plays it, a line in the strip shows where the player is, and the segments
// are the player's subtitles.
const player = () => document.querySelector("#player video");
const strip = () => document.querySelector("#timeline .strip");
document.addEventListener("click", (event) => {
  const segment = event.target.closest("[data-start]"), video = player();
  if (segment && video) { video.currentTime = Number(segment.dataset.start) + 0.001; video.play(); }
});
document.addEventListener("timeupdate", (event) => {
  if (event.target !== player() || !strip()) return;
  const share = event.target.currentTime / Number(strip().dataset.length);
  strip().querySelector("hr").style.left = `${100 * Math.min(share, 1)}%`;
}, true);
const subtitle = () => {
  const video = player(), segments = strip();
  if (!video || !segments || segments.player === video) return;
  segments.player = video;
  // Beside the track that Gradio makes, which is emptied when it finds no file.
  const track = video.actions ??= video.addTextTrack("subtitles");
  track.mode = "showing";
  while (track.cues.length) track.removeCue(track.cues[0]);
  for (const { dataset, textContent } of segments.querySelectorAll("button")) {
    const words = document.createElement("p");
    words.textContent = `${textContent} (${dataset.score})`;
    track.addCue(new VTTCue(Number(dataset.start), Number(dataset.end), words.innerHTML));
  }
};
// Either may come first.
new MutationObserver(subtitle).observe(document, { childList: true, subtree: true });
// The preview of an upload that browsers don't play: Gradio would complain.
document.addEventListener("error", (event) => {
  if (event.target.closest?.("#upload")) event.stopImmediatePropagation();
}, true);
