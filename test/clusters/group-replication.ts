import { randomInt, randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, query } from '../connect.ts'
import { mysqld, prepareMysql } from '../servers/mysql.ts'
import type { Recipe } from '../servers/private-server.ts'
import { serverKinds } from '../servers/server.ts'
import { type ClusterNode, startNode } from './node.ts'

export type GroupMode = 'single-primary' | 'multi-primary'

export interface ReplicationGroup {
  readonly nodes: readonly ClusterNode[]
  /** The nodes that take writes, as those see it that are not cut off. */
  primaries(): Promise<ClusterNode[]>
  /** Resolves when all nodes are in one group, and have what it has. */
  untilWhole(): Promise<void>
  stop(): Promise<void>
}

const NODES = 3

interface Group {
  readonly id: string
  readonly mode: GroupMode
  /** Between those of the servers themselves and those the system gives to outgoing connections. */
  readonly ports: readonly number[]
}

/** MySQL Group Replication, three nodes on this machine. */
export async function startGroupReplication({ mode }: { mode: GroupMode }): Promise<ReplicationGroup> {
  const programs = await prepareMysql()
  const base = randomInt(30_000, 32_700)
  const group: Group = { id: randomUUID(), mode, ports: Array.from({ length: NODES }, (_, index) => base + index) }
  let isFounded = false
  let lastJoining: Promise<void> = Promise.resolve()
  /** In turn, whoever is ready first; the first one founds the group. */
  const join = (url: string) => {
    lastJoining = lastJoining.then(async () => {
      await joinGroup(url, !isFounded)
      isFounded = true
    })
    return lastJoining
  }
  const starts = await Promise.allSettled(
    group.ports.map((_, index) => startNode(recipe(index, group, programs), join)),
  )
  const nodes = starts.flatMap((start) => (start.status === 'fulfilled' ? [start.value] : []))
  const stop = async () => {
    // Nobody needs the farewells of a node to the others.
    await Promise.all(nodes.map((node) => node.kill()))
    await Promise.all(nodes.map((node) => node.remove()))
  }
  try {
    const failed = starts.find((start) => start.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    await untilAll(nodes)
  } catch (error) {
    await stop()
    throw error
  }
  return {
    nodes,
    async primaries() {
      const views = await Promise.all(nodes.map(({ url }) => membersSeenBy(url)))
      const majority =
        views.find((members) => members.filter(({ state }) => state === 'ONLINE').length > NODES / 2) ?? []
      const ports = majority
        .filter(({ state, role }) => state === 'ONLINE' && role === 'PRIMARY')
        .map(({ port }) => port)
      return nodes.filter(({ url }) => ports.includes(new URL(url).port))
    },
    untilWhole: () => untilAll(nodes),
    stop,
  }
}

function recipe(index: number, { id, mode, ports }: Group, programs: string): Recipe {
  const address = (port: number | undefined) => `127.0.0.1:${port}`
  return {
    kind: serverKinds.mysql,
    programs,
    stopSignal: 'SIGTERM',
    initialise: (place) =>
      mysqld(place.programs, [
        '--no-defaults',
        '--initialize-insecure',
        `--basedir=${join(place.programs, 'usr')}`,
        `--datadir=${place.data}`,
        '--innodb-redo-log-capacity=16M',
        '--secure-file-priv=NULL',
      ]),
    serve: (place, port) =>
      mysqld(place.programs, [
        '--no-defaults',
        `--basedir=${join(place.programs, 'usr')}`,
        `--datadir=${place.data}`,
        `--port=${port}`,
        '--bind-address=127.0.0.1',
        `--socket=${join(place.home, 'socket')}`,
        `--pid-file=${join(place.home, 'pid')}`,
        '--secure-file-priv=NULL',
        '--mysqlx=OFF',
        '--max-connections=200',
        '--innodb-buffer-pool-size=32M',
        '--innodb-redo-log-capacity=16M',
        `--server-id=${index + 1}`,
        '--gtid-mode=ON',
        '--enforce-gtid-consistency=ON',
        '--report-host=127.0.0.1',
        `--plugin-dir=${join(place.programs, 'usr/lib/mysql/plugin')}`,
        '--plugin-load-add=group_replication.so',
        `--group-replication-group-name=${id}`,
        '--group-replication-start-on-boot=OFF',
        `--group-replication-local-address=${address(ports[index])}`,
        `--group-replication-group-seeds=${ports.map(address).join(',')}`,
        '--group-replication-recovery-get-public-key=ON',
        '--group-replication-member-expel-timeout=0',
        // What others commit is applied in one line, so that all of it waits when its head does.
        '--replica-parallel-workers=1',
        ...(mode === 'multi-primary'
          ? ['--group-replication-single-primary-mode=OFF', '--group-replication-enforce-update-everywhere-checks=ON']
          : []),
      ]),
    url: (port) => `mysql://root@127.0.0.1:${port}/mysql`,
  }
}

async function joinGroup(url: string, founds: boolean): Promise<void> {
  const connection = await connect(url)
  try {
    await connection.query(`change replication source to source_user = 'root' for channel 'group_replication_recovery'`)
    if (founds) await connection.query('set global group_replication_bootstrap_group = on')
    await connection.query('start group_replication')
    if (founds) await connection.query('set global group_replication_bootstrap_group = off')
    while (!(await connection.query(OWN_STATE)).some(({ state }) => state === 'ONLINE')) await sleep(50)
  } finally {
    await connection.close()
  }
}

const OWN_STATE = `
  select member_state as state from performance_schema.replication_group_members where member_id = @@server_uuid`

interface Member {
  readonly port: string
  readonly state: string
  readonly role: string
}

/** Empty if the node does not answer. */
async function membersSeenBy(url: string): Promise<Member[]> {
  const rows = await query(
    url,
    `select member_port as port, member_state as state, member_role as role
       from performance_schema.replication_group_members`,
  ).catch(() => [])
  return rows.map(({ port, state, role }) => ({ port: `${port}`, state: `${state}`, role: `${role}` }))
}

async function untilAll(nodes: readonly ClusterNode[]): Promise<void> {
  for (;;) {
    const views = await Promise.all(nodes.map(({ url }) => membersSeenBy(url)))
    const isWhole = (members: Member[]) => members.filter(({ state }) => state === 'ONLINE').length === nodes.length
    const positions = await Promise.all(nodes.map(({ url }) => executed(url)))
    if (views.every(isWhole) && new Set(positions).size === 1) return
    await sleep(50)
  }
}

async function executed(url: string): Promise<string | null> {
  const [row] = await query(url, 'select @@gtid_executed as executed').catch(() => [])
  return row === undefined ? null : `${row.executed}`
}
