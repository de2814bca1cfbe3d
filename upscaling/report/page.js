"use strict";
document.documentElement.classList.add("scripted");
for (const pair of document.querySelectorAll(".pair")) {
  const stage = pair.querySelector(".stage");
  const slider = pair.querySelector("input");
  const show = () => {
    stage.style.setProperty("--at", slider.value + "%");
    slider.setAttribute("aria-valuetext", slider.value + " % before, " + (100 - slider.value) + " % after");
  };
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    slider.value = Math.round(100 * (event.clientX - box.left) / box.width);
    show();
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button === 0) {
      stage.setPointerCapture(event.pointerId);
      follow(event);
    }
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) follow(event);
  });
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  slider.addEventListener("input", show);
  show();
}
