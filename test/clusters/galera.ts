import { access, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { query } from '../connect.ts'
import { cached } from '../servers/cache.ts'
import { runCommand, succeeds } from '../servers/command.ts'
import { findProgram, installPackages } from '../servers/debian.ts'
import { prepareMariadb } from '../servers/mysql.ts'
import type { Recipe } from '../servers/private-server.ts'
import { serverKinds } from '../servers/server.ts'
import { type Links, startLinks } from './links.ts'
import { type ClusterNode, type OwnNode, startNode } from './node.ts'

export interface GaleraCluster {
  /** All of them take writes. */
  readonly nodes: readonly ClusterNode[]
  /** Cuts this node off from the others, but not from its clients, until `heal`. */
  partition(node: ClusterNode): void
  heal(): void
  /** Resolves when all nodes are in one primary component, and have what it has. */
  untilWhole(): Promise<void>
  stop(): Promise<void>
}

type Programs = Awaited<ReturnType<typeof prepareGalera>>

const NODES = 3
/** The usual ones, since every node has an address of its own. */
const GROUP_PORT = 4567
const INCREMENTAL_TRANSFER_PORT = 4568
/** Not the usual one: rsync would take the daemon of another node for its own. */
const FULL_TRANSFER_PORTS = 4444

/** After a silence of 5 s Galera suspects a node, and excludes it. Tests need not wait so long; a busy machine needs some of it. */
const SUSPECT_AFTER = 'PT2S'
const EXCLUDE_AFTER = 'PT4S'

/**
 * Starts mariadbd. If it has data, InnoDB is asked first how far they got: after a crash Galera does not know, and would copy
 * everything from another node.
 */
const LAUNCHER = `
  if [ -e "$STATE_FILE" ]; then
    position=$("$0" "$@" --wsrep-recover 2>&1 | sed -n 's/.*Recovered position: *//p')
    exec "$0" "$@" --wsrep-start-position="$position"
  fi
  exec "$0" "$@" $FIRST_START`

/** MariaDB Galera, three nodes on this machine. `env` is added to their environment. */
export async function startGalera(env?: NodeJS.ProcessEnv): Promise<GaleraCluster> {
  const programs = await prepareGalera()
  const links = await startLinks(NODES, GROUP_PORT)
  const nodes: OwnNode[] = []
  const stop = async () => {
    // Nobody needs the farewells of a node to the others.
    await Promise.all(nodes.map((node) => node.kill()))
    await Promise.all(nodes.map((node) => node.remove()))
    await links.close()
  }
  try {
    // One after the other: a node that is giving its data to another has none for the third.
    for (let index = 0; index < NODES; index++) {
      nodes.push(await startNode(recipe(index, links, programs), untilSynced, env))
    }
    await untilAll(nodes)
  } catch (error) {
    await stop()
    throw error
  }
  return {
    nodes,
    partition: (node) => links.isolate(nodes.map(({ url }) => url).indexOf(node.url)),
    heal: () => links.heal(),
    untilWhole: () => untilAll(nodes),
    stop,
  }
}

function recipe(index: number, links: Links, { server, installer, library, scripts }: Programs): Recipe {
  const address = links.own(index)
  const isFirst = index === 0
  const members = Array.from({ length: NODES }, (_, each) => links.relayed(each))
  return {
    kind: serverKinds.mariadb,
    programs: scripts,
    stopSignal: 'SIGTERM',
    initialise: ({ data }) =>
      isFirst
        ? {
            program: installer,
            args: [
              '--no-defaults',
              `--datadir=${data}`,
              '--auth-root-authentication-method=normal',
              '--skip-test-db',
              '--skip-name-resolve',
            ],
          }
        : { program: 'mkdir', args: [data] },
    serve: ({ data, home, programs }, port) => ({
      program: 'sh',
      env: {
        PATH: `${programs}:${process.env.PATH}`,
        STATE_FILE: join(data, 'grastate.dat'),
        FIRST_START: isFirst ? '--wsrep-new-cluster' : '',
      },
      args: [
        '-c',
        LAUNCHER,
        server,
        '--no-defaults',
        `--datadir=${data}`,
        `--port=${port}`,
        `--bind-address=${address}`,
        `--socket=${join(home, 'socket')}`,
        `--pid-file=${join(home, 'pid')}`,
        '--skip-name-resolve',
        '--innodb-buffer-pool-size=32M',
        '--innodb-log-file-size=16M',
        '--max-connections=200',
        '--binlog-format=ROW',
        '--innodb-autoinc-lock-mode=2',
        '--wsrep-on=ON',
        `--wsrep-provider=${library}`,
        '--wsrep-cluster-name=rowlock',
        `--wsrep-cluster-address=gcomm://${members.map((member) => `${member}:${GROUP_PORT}`).join(',')}`,
        `--wsrep-node-name=node${index}`,
        `--wsrep-node-address=${address}`,
        '--wsrep-sst-method=rsync',
        `--wsrep-sst-receive-address=${address}:${FULL_TRANSFER_PORTS + index}`,
        `--wsrep-provider-options=${[
          `gmcast.listen_addr=tcp://${address}:${GROUP_PORT}`,
          `ist.recv_addr=${address}:${INCREMENTAL_TRANSFER_PORT}`,
          'evs.keepalive_period=PT0.5S',
          `evs.suspect_timeout=${SUSPECT_AFTER}`,
          `evs.inactive_timeout=${EXCLUDE_AFTER}`,
          'gcache.size=16M',
        ].join(';')}`,
      ],
    }),
    url: (port) => `mysql://root@${address}:${port}/mysql`,
  }
}

/** What Galera needs beside the server: its library, and the scripts by which a new node is given its data. */
async function prepareGalera() {
  const programs = await prepareMariadb()
  const library = '/usr/lib/galera/libgalera_smm.so'
  if (!(await exists(library))) await installPackages('galera-4')
  if ((await findProgram('rsync')) === null) await installPackages('rsync')
  if ((await findProgram('ss')) === null) await installPackages('iproute2')
  const scripts = await cached('galera', "Galera's scripts from Debian's mariadb-server", async (draft) => {
    // Only unpacked: installed, it would start a server of its own.
    const download = { program: 'apt-get', args: ['-q', 'download', 'mariadb-server'], cwd: draft }
    if (!(await succeeds(download))) {
      await runCommand({ program: 'apt-get', args: ['-q', 'update'] })
      await runCommand(download)
    }
    const unpacked = join(draft, 'unpacked')
    await runCommand({ program: 'sh', args: ['-c', 'dpkg-deb -x mariadb-server_*.deb unpacked'], cwd: draft })
    for (const script of ['wsrep_sst_common', 'wsrep_sst_rsync']) {
      await rename(join(unpacked, 'usr/bin', script), join(draft, script))
    }
    await rm(unpacked, { recursive: true })
    await runCommand({ program: 'sh', args: ['-c', 'rm mariadb-server_*.deb'], cwd: draft })
  })
  return { ...programs, library, scripts }
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  )
}

async function untilSynced(url: string): Promise<void> {
  while ((await status(url)) === null) await sleep(50)
}

async function untilAll(nodes: readonly ClusterNode[]): Promise<void> {
  for (;;) {
    const all = await Promise.all(nodes.map(({ url }) => status(url)))
    const positions = new Set(all.map((each) => each?.position))
    if (all.every((each) => each?.size === nodes.length) && positions.size === 1) return
    await sleep(50)
  }
}

/** Null: not a member of the primary component that has all its data, so it takes no queries. */
async function status(url: string): Promise<{ size: number; position: string } | null> {
  const rows = await query(url, "show global status like 'wsrep%'").catch(() => [])
  const values = new Map(rows.map((row) => [row.Variable_name, String(row.Value)]))
  if (values.get('wsrep_ready') !== 'ON' || values.get('wsrep_local_state_comment') !== 'Synced') return null
  return { size: Number(values.get('wsrep_cluster_size')), position: `${values.get('wsrep_last_committed')}` }
}
