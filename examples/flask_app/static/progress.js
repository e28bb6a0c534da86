// Shows how the training that runs stands, and the page anew when it has ended. Everything else works without a script.
"use strict";

const job = document.getElementById("job");
const PAUSE = 500; // milliseconds between two questions
const PATIENCE = 3000; // and after one that was not answered

async function ask() {
  const response = await fetch(job.dataset.address, { headers: { Accept: "application/json" } });
  if (!response.ok) {
    throw new Error(`status ${response.status}`);
  }
  return (await response.json()).job;
}

function show(state) {
  const bar = document.getElementById("job-progress");
  const text = document.getElementById("job-text");
  if (state.progress) {
    bar.max = state.progress.total;
    bar.value = state.progress.done;
  }
  if (text.textContent !== state.text) {
    text.textContent = state.text;
  }
}

async function watch() {
  let pause = PAUSE;
  try {
    const state = await ask();
    if (state.status !== "running") {
      window.location.assign(job.dataset.page);
      return;
    }
    show(state);
  } catch {
    document.getElementById("job-text").textContent = "The server does not answer; trying again.";
    pause = PATIENCE;
  }
  window.setTimeout(watch, pause);
}

if (job) {
  watch();
}
