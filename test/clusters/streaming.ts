import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { query } from '../connect.ts'
import { preparePostgres15 } from '../servers/postgres.ts'
import type { Place, Recipe } from '../servers/private-server.ts'
import { serverKinds } from '../servers/server.ts'
import { startProxy } from '../tcp-proxy.ts'
import { type ClusterNode, type OwnNode, startNode } from './node.ts'

export interface StreamingPair {
  readonly primary: ClusterNode
  /** Takes no writes until it is promoted. */
  readonly standby: ClusterNode
  /** From now on nothing gets from the primary to the standby. */
  partition(): void
  heal(): void
  /** Makes the standby a primary. Resolves when it takes writes. The former primary has to be dead by then. */
  promote(): Promise<void>
  stop(): Promise<void>
}

/**
 * A PostgreSQL primary and a standby that follows its stream. `synchronous`: no commit is reported before the standby has it
 * on its disk.
 */
export async function startStreaming({ synchronous }: { synchronous: boolean }): Promise<StreamingPair> {
  const programs = await preparePostgres15()
  const primary = await startNode(recipe(programs, initdb), async () => {})
  const proxy = await startProxy(primary.url)
  const nodes: OwnNode[] = [primary]
  const stop = async () => {
    // What a killed PostgreSQL leaves in shared memory only PostgreSQL removes, when it starts again.
    await Promise.all(nodes.map((node) => node.isRunning() || node.start()))
    await Promise.all(nodes.map((node) => node.remove()))
    await proxy.close()
  }
  try {
    const standby = await startNode(
      recipe(programs, (place) => baseBackup(place, proxy.port)),
      untilStreaming,
    )
    nodes.push(standby)
    if (synchronous) await makeSynchronous(primary.url)
    return {
      primary,
      standby,
      partition: () => proxy.blackhole(),
      heal: () => proxy.restore(),
      promote: () => promote(standby.url),
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

function recipe(programs: string, initialise: Recipe['initialise']): Recipe {
  return {
    kind: serverKinds.postgres15,
    programs,
    stopSignal: 'SIGINT',
    initialise,
    serve: (place, port) => ({
      program: join(place.programs, 'postgres'),
      args: [
        '-D',
        place.data,
        '-p',
        String(port),
        '--listen_addresses=127.0.0.1',
        `--unix_socket_directories=${place.home}`,
        `--external_pid_file=${join(place.home, 'pid')}`,
        '--shared_buffers=32MB',
        // Kept in the data directory, so that nothing stays behind when it is killed.
        '--dynamic_shared_memory_type=mmap',
        '--logging_collector=off',
      ],
    }),
    url: (port) => `postgres://postgres@127.0.0.1:${port}/postgres`,
  }
}

function initdb({ programs, data }: Place) {
  return {
    program: join(programs, 'initdb'),
    args: [
      `--pgdata=${data}`,
      '--username=postgres',
      '--auth=trust',
      '--encoding=UTF8',
      '--locale=C.UTF-8',
      '--no-sync',
    ],
  }
}

/** `port`: where it follows the primary from then on. */
function baseBackup({ programs, data }: Place, port: number) {
  return {
    program: join(programs, 'pg_basebackup'),
    args: [
      `--pgdata=${data}`,
      '--host=127.0.0.1',
      `--port=${port}`,
      '--username=postgres',
      '--checkpoint=fast',
      '--write-recovery-conf',
      '--no-sync',
    ],
  }
}

async function untilStreaming(url: string): Promise<void> {
  while ((await query(url, `select 1 from pg_stat_wal_receiver where status = 'streaming'`)).length === 0)
    await sleep(20)
}

async function makeSynchronous(url: string): Promise<void> {
  await query(url, `alter system set synchronous_standby_names = '*'`)
  await query(url, 'select pg_reload_conf()')
  while ((await query(url, `select 1 from pg_stat_replication where sync_state = 'sync'`)).length === 0) await sleep(20)
}

async function promote(url: string): Promise<void> {
  await query(url, 'select pg_promote(false)')
  while ((await query(url, 'select 1 where not pg_is_in_recovery()')).length === 0) await sleep(20)
}
