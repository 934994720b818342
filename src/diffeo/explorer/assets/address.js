([tab, ...names], values) => {
  if (!window.diffeoOpened) return;  // what is set while the page opens is not to change its address
  const query = new URLSearchParams({ tab });
  names.forEach((name, i) => {
    const value = values[i];
    // A slider's steps are sums of floats.
    if (value !== null) query.set(name, typeof value === "number" ? +value.toPrecision(9) : value);
  });
  try {
    history.replaceState(history.state, "", "?" + query);
  } catch (error) {
    // Some browsers allow so many changes a second and no more: the next one is written again.
  }
}
