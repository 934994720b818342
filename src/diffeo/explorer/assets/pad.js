// A square whose point says how far between the four images to go.
let across = props.value.across, down = props.value.down, held = false;
const clamp = (value) => Math.max(0, Math.min(100, Math.round(value)));
const move = (x, y) => {
  across = clamp(x);
  down = clamp(y);
  const knob = element.querySelector(".knob");
  knob.style.left = across + "%";
  knob.style.top = down + "%";
  // As its value, not with the event: of many moves the last one is read when its turn comes.
  props.value = { across, down };
  trigger("input");
};
const follow = (event) => {
  const box = element.querySelector(".pad").getBoundingClientRect();
  move(100 * (event.clientX - box.left) / box.width, 100 * (event.clientY - box.top) / box.height);
};
element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".pad")) return;
  held = true;
  element.setPointerCapture(event.pointerId);
  element.querySelector(".pad").focus();
  follow(event);
});
element.addEventListener("pointermove", (event) => held && follow(event));
element.addEventListener("pointerup", () => (held = false));
element.addEventListener("pointercancel", () => (held = false));
element.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 10 : 2;
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!(event.key in directions)) return;
  event.preventDefault();
  const [x, y] = directions[event.key];
  move(across + step * x, down + step * y);
});
