// Points on their way through the layers: stations come from the server, the motion is made here.
let time = 0, playing = false, before = null;
const PACE = 1.2;  // layers a second
const find = (selector) => element.querySelector(selector);
const ease = (t) => t * t * (3 - 2 * t);
const draw = () => {
  const film = props.value, canvas = find("canvas");
  if (!film || !canvas) return;
  const last = film.stations.length - 1, ink = canvas.getContext("2d");
  time = Math.min(time, last);
  const from = Math.min(Math.floor(time), last - 1), share = ease(time - from);
  const a = film.stations[from], b = film.stations[from + 1], side = canvas.width;
  ink.clearRect(0, 0, side, side);
  for (let i = 0; i < film.colours.length; i++) {
    const x = a[2 * i] + share * (b[2 * i] - a[2 * i]);
    const y = a[2 * i + 1] + share * (b[2 * i + 1] - a[2 * i + 1]);
    ink.fillStyle = film.colours[i];
    ink.beginPath();
    ink.arc(x * side, y * side, 5, 0, 7);
    ink.fill();
  }
  const nearest = Math.round(time), range = find(".time");
  range.max = last;
  range.value = time;
  range.setAttribute("aria-valuetext", film.names[nearest]);
  const where = `${nearest} of ${last} · ${film.names[nearest]} · ${film.labels[nearest]}`;
  if (find(".where").textContent !== where) find(".where").textContent = where;
  find(".play").textContent = playing ? "Pause" : time >= last ? "Play again" : "Play";
};
const tick = (now) => {
  if (!playing) return;
  time += PACE * (before === null ? 0 : now - before) / 1000;
  before = now;
  if (time >= props.value.stations.length - 1) playing = false;
  draw();
  requestAnimationFrame(tick);
};
element.addEventListener("click", (event) => {
  if (!event.target.closest(".play") || !props.value) return;
  playing = !playing;
  before = null;
  if (playing && time >= props.value.stations.length - 1) time = 0;
  draw();
  requestAnimationFrame(tick);
});
element.addEventListener("input", (event) => {
  if (!event.target.classList.contains("time")) return;
  playing = false;
  time = Number(event.target.value);
  draw();
});
watch("value", draw);
draw();
