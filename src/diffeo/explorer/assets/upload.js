// Reads the files that are chosen or dropped, and sends them inside the message.
const LARGEST = 10 * 2 ** 20, LARGEST_SUM = 32 * 2 ** 20;
const read = (file) => new Promise((done) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => done(null);
  reader.readAsDataURL(file);
});
const send = async (chosen) => {
  let room = LARGEST_SUM;
  const files = [];
  for (const file of chosen) {
    // What is too large is named and not sent, so that the answer can say so.
    const fits = file.size <= LARGEST && file.size <= room;
    if (fits) room -= file.size;
    const data = fits ? (file.size ? await read(file) : "") : null;
    files.push({ name: file.name, data });
  }
  trigger("upload", { files });
};
element.addEventListener("change", (event) => {
  if (event.target.type !== "file") return;
  const chosen = [...event.target.files];
  event.target.value = "";  // the same file may be chosen again
  if (chosen.length) send(chosen);
});
element.addEventListener("dragover", (event) => {
  event.preventDefault();
  element.classList.add("over");
});
element.addEventListener("dragleave", () => element.classList.remove("over"));
element.addEventListener("drop", (event) => {
  event.preventDefault();
  element.classList.remove("over");
  const chosen = [...event.dataTransfer.files];
  if (chosen.length) send(chosen);
});
