// A click into the plane, or the arrow keys, pick a point: shares of the panel from its upper left.
const PANEL = { x: 52, y: 26, side: 420 };
let last = { x: 0.5, y: 0.5 };
const pick = (x, y) => {
  last = { x: Math.max(0, Math.min(1, x)), y: Math.max(0, Math.min(1, y)) };
  // As its value, not with the event: of many moves the last one is read when its turn comes.
  props.value = last;
  trigger("select");
};
const svg = () => element.querySelector("svg");
const ready = () => {
  const chart = svg();
  if (!chart) return;
  chart.setAttribute("tabindex", "0");
  chart.setAttribute("role", "application");
  const ring = chart.querySelector(".cross circle");
  if (ring) {
    last = {
      x: (ring.getAttribute("cx") - PANEL.x) / PANEL.side,
      y: (ring.getAttribute("cy") - PANEL.y) / PANEL.side,
    };
  }
};
watch("chart", ready);
ready();
element.addEventListener("click", (event) => {
  const chart = svg();
  if (!chart || !chart.contains(event.target)) return;
  const at = new DOMPoint(event.clientX, event.clientY)
    .matrixTransform(chart.getScreenCTM().inverse());
  const x = (at.x - PANEL.x) / PANEL.side, y = (at.y - PANEL.y) / PANEL.side;
  chart.focus();
  if (x >= 0 && x <= 1 && y >= 0 && y <= 1) pick(x, y);
});
element.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 0.05 : 0.01;
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!(event.key in directions)) return;
  event.preventDefault();
  const [x, y] = directions[event.key];
  pick(last.x + step * x, last.y + step * y);
});
