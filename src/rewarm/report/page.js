"use strict";
// Where the pointer is, the nearest mark's numbers are written below the plot: a finger cannot hover over three pixels.
for (const plot of document.querySelectorAll("figure > svg.plot")) {
  const marks = [...plot.querySelectorAll(".mark")];
  if (!marks.length) continue;
  const said = document.createElement("p");
  said.className = "said";
  plot.after(said);
  const show = (event) => {
    let nearest = null, least = Infinity;
    for (const mark of marks) {
      const box = mark.getBoundingClientRect();
      const distance = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
      if (distance < least) { least = distance; nearest = mark; }
    }
    for (const mark of marks) mark.classList.toggle("near", mark === nearest);
    said.textContent = nearest.querySelector("title").textContent;
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
}
