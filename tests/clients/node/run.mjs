// Runs the clients whose modules are named as arguments, in this one process; a line of JSON for each case.
for (const name of process.argv.slice(2)) await import(`./${name}.mjs`);
