// The service of the engine in a worker, or in the page itself where a file may start no worker.
"use strict";

// Returns a function that sends a message; `restart` is called if the worker fails.
function startWorker(model, receive, restart) {
  const startHere = () => {
    const send = startService(receive);
    send({ kind: "start", model });
    return send;
  };
  let send;
  try {
    const source = `${document.getElementById("engine").textContent}
      const handle = startService((message) => postMessage(message));
      onmessage = (event) => handle(event.data);`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(address);
    worker.onmessage = (event) => receive(event.data);
    worker.onerror = () => {
      send = startHere();
      restart();
    };
    send = (message) => worker.postMessage(message);
    send({ kind: "start", model });
  } catch {
    send = startHere();
  }
  return (message) => send(message);
}
