// The original's own API, load balancer and task processes, without its discovery: local calls do not use it.
// node _original.js PACKAGE DIRECTORY PORT
const [, , root, directory, port] = process.argv;
require(`${root}/src/constants.js`).TMP_FILE = `${directory}/sync.tar.gz`;
const GridControl = require(`${root}/src/`);

const grid = new GridControl({
  namespace: 'bench',
  peer_api_port: Number(port),
  file_manager: { root_folder: `${directory}/shared` },
});
Promise.all([grid.api.start(), grid.task_manager.start()]).then(() => {
  require('fs').writeFileSync(`${directory}/started`, '');
});
