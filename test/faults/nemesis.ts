import { setTimeout as sleep } from 'node:timers/promises'
import type { TestConnection } from '../connect.ts'
import type { Direction } from '../tcp-proxy.ts'
import type { Fault } from './checkers.ts'
import type { Crew } from './crew.ts'
import { clock } from './history.ts'
import type { FaultTerms, PlannedFault } from './schedule.ts'
import { isWaitedFor, killSessions, sessionId } from './sessions.ts'
import type { Target } from './target.ts'
import { HOT_LOCKS, STATEMENT_TIMEOUT_MS } from './work.ts'

export interface Surroundings {
  readonly target: Target
  readonly crew: Crew
  /** The locks of the guarded work. */
  readonly locks: readonly string[]
  readonly ttlMs: number
}

interface FaultKind extends FaultTerms {
  /** Whether it can happen to this target. */
  readonly applies: (target: Target) => boolean
  readonly setsClock?: boolean
  readonly kills?: boolean
  readonly stops?: boolean
  /** Breaks something, and heals it at the end. Answers whether there was anything to break. */
  run(surroundings: Surroundings, fault: PlannedFault & { place: number }): Promise<boolean>
}

const everywhere = () => true
const isCluster = ({ cluster }: Target) => cluster !== null
const nodeOf = ({ cluster }: Target, choice: number) => cluster!.nodes[Math.floor(choice * cluster!.nodes.length)]!
const overNetwork = ({ dialect }: Target) => dialect !== 'sqlite'
/** What our own transactions get when it is they who lose. */
const VICTIM = ['40P01', 'ER_LOCK_DEADLOCK', 'ER_LOCK_WAIT_TIMEOUT', 'SQLITE_BUSY']
const NODE_IS_AWAY = ['ECONNREFUSED', 'ECONNRESET', 'ETIMEDOUT', 'PROTOCOL_CONNECTION_LOST', 'ER_UNKNOWN_COM_ERROR']
const HOUR_S = 3600
/** How long a pause waits for the moment that hurts most. */
const AT_RISK_MS = 600
/** How long to wait for a reply that can be cut, and, with a row locked, for somebody who waits for it. */
const CUT_MS = 3000
const TRAP_MS = 2000
/** MariaDB looks at its locks again only when nobody has asked for so long. */
const MARIADB_CACHE_MS = 120
/** On a lock for which nobody comes, or where we are the victim, there is no use. */
const DEADLOCK_TRIES = 3
/** In a cluster, what other nodes have committed goes first. */
const LOCKING_TRIES = 5
/** Rows that make our transaction the dearer one, so that the deadlock's victim is the other. */
const BALLAST_ROWS = 200

/** At the end of a packet with nothing else in it, in the protocols of both PostgreSQL and MySQL. */
const COMMIT = /[^_a-z]commit\0?$/

const kinds = {
  'worker stopped': {
    scope: 'worker',
    lasts: [1.2, 3.2],
    perRound: 3,
    stops: true,
    applies: everywhere,
    async run({ crew }, { place, milliseconds }) {
      await crew.untilAtRisk(place, AT_RISK_MS)
      crew.signal(place, 'SIGSTOP')
      await sleep(milliseconds)
      crew.signal(place, 'SIGCONT')
      return true
    },
  },
  'worker killed': {
    scope: 'worker',
    lasts: [0, 0],
    applies: everywhere,
    kills: true,
    async run({ crew }, { place }) {
      await crew.replace(place)
      return true
    },
  },
  'event loop stalled': {
    scope: 'worker',
    lasts: [1.2, 2.4],
    perRound: 2,
    // It may be killed before it could note that.
    stops: true,
    applies: everywhere,
    async run({ crew }, { place, milliseconds }) {
      await crew.untilAtRisk(place, AT_RISK_MS)
      crew.order(place, { type: 'stall', milliseconds })
      await sleep(milliseconds)
      return true
    },
  },
  'pool exhausted': {
    scope: 'worker',
    lasts: [0.8, 1.6],
    applies: everywhere,
    async run({ crew }, { place, milliseconds }) {
      crew.order(place, { type: 'exhaust', milliseconds })
      await sleep(milliseconds)
      return true
    },
  },
  'notifications dropped': {
    scope: 'worker',
    lasts: [1, 2],
    applies: ({ dialect }) => dialect === 'postgres',
    run: async ({ crew }, { place, milliseconds }) => (await crew.dropNotifications(place, milliseconds)) > 0,
  },
  'network slow': {
    scope: 'network',
    lasts: [1, 3],
    applies: overNetwork,
    async run({ crew, ttlMs }, { place, milliseconds, choice }) {
      const delay = ttlMs * 0.2 * choice
      crew.proxy(place).delay({ toServer: delay, toClient: ttlMs * 0.2 - delay })
      await sleep(milliseconds)
      crew.proxy(place).restore()
      return true
    },
  },
  'requests held back': {
    scope: 'network',
    lasts: [0.6, 2.4],
    applies: overNetwork,
    run: (surroundings, fault) => blackhole(surroundings, fault, 'toServer'),
  },
  'replies held back': {
    scope: 'network',
    lasts: [0.6, 2.4],
    applies: overNetwork,
    run: (surroundings, fault) => blackhole(surroundings, fault, 'toClient'),
  },
  'connections reset': {
    scope: 'network',
    lasts: [0, 0],
    applies: overNetwork,
    async run({ crew }, { place }) {
      const open = crew.proxy(place).connections
      crew.proxy(place).disconnect()
      return open > 0
    },
  },
  /** The server has given up the sessions, and the client does not learn it. */
  'connections half-open': {
    scope: 'network',
    lasts: [1.1, 2.2],
    applies: overNetwork,
    async run({ target, crew }, { place, milliseconds }) {
      crew.proxy(place).blackhole()
      const killed = await using(target, (connection) => killSessions(connection, target.dialect, place), place)
      await sleep(milliseconds)
      crew.proxy(place).restore()
      return killed > 0
    },
  },
  'reply cut': {
    scope: 'network',
    lasts: [0, 0],
    applies: overNetwork,
    run: (surroundings, fault) => cut(surroundings, fault),
  },
  'reply to commit cut': {
    scope: 'network',
    lasts: [0, 0],
    applies: overNetwork,
    run: (surroundings, fault) => cut(surroundings, fault, (request) => COMMIT.test(request.toString('latin1'))),
  },
  'sessions killed': {
    scope: 'worker',
    lasts: [0, 0],
    applies: overNetwork,
    async run({ target }, { place }) {
      return (await using(target, (connection) => killSessions(connection, target.dialect, place), place)) > 0
    },
  },
  'deadlock victim': {
    scope: 'database',
    lasts: [0, 0],
    applies: overNetwork,
    async run({ target, locks }, { choice }) {
      for (let tries = 0; tries < DEADLOCK_TRIES; tries++) {
        const lock = locks[Math.floor(choice * HOT_LOCKS + tries) % HOT_LOCKS]!
        if (
          await using(target, (connection) => using(target, (observer) => deadlock(target, connection, observer, lock)))
        )
          return true
      }
      return false
    },
  },
  /** Nobody can write a counter until the patience of all who try is over. */
  'statements timed out': {
    scope: 'database',
    lasts: [0, 0],
    applies: everywhere,
    run: ({ target, locks }, { choice }) =>
      whileLocked(target, 'select value from work_counters', half(locks, choice), 1.15 * STATEMENT_TIMEOUT_MS),
  },
  'lock rows locked': {
    scope: 'database',
    lasts: [0.5, 1.6],
    applies: everywhere,
    run: ({ target, locks }, { choice, milliseconds }) =>
      whileLocked(target, 'select token from rowlock_locks', half(locks, choice), milliseconds),
  },
  'long snapshot': {
    scope: 'database',
    lasts: [2, 5],
    applies: everywhere,
    run: ({ target }, { milliseconds }) =>
      using(target, async (connection) => {
        if (target.dialect === 'mysql') await connection.query('start transaction with consistent snapshot')
        else await connection.query(target.dialect === 'postgres' ? 'begin isolation level repeatable read' : 'begin')
        await connection.query('select count(*) from rowlock_locks')
        await sleep(milliseconds)
        await rollBack(connection)
        return true
      }),
  },
  'server killed': {
    scope: 'server',
    lasts: [0, 0],
    applies: ({ crash }) => crash !== undefined,
    async run({ target }) {
      await target.crash!()
      return true
    },
  },
  /** For ever: if the clock went back, leases that were granted meanwhile would last an hour longer. */
  'clock set ahead': {
    scope: 'server',
    lasts: [0, 0],
    applies: ({ advanceClock }) => advanceClock !== undefined,
    setsClock: true,
    async run({ target }) {
      await target.advanceClock!(HOUR_S)
      return true
    },
  },
  'clock set back': {
    scope: 'server',
    lasts: [1, 2],
    applies: ({ advanceClock }) => advanceClock !== undefined,
    setsClock: true,
    async run({ target }, { milliseconds }) {
      await target.advanceClock!(-HOUR_S)
      await sleep(milliseconds)
      await target.advanceClock!(HOUR_S)
      return true
    },
  },
  'node stopped': {
    scope: 'node',
    lasts: [1.2, 3.2],
    applies: isCluster,
    async run({ target }, { choice, milliseconds }) {
      const node = nodeOf(target, choice)
      node.pause()
      await sleep(milliseconds)
      node.resume()
      await target.cluster!.untilWhole()
      return true
    },
  },
  'node killed': {
    scope: 'node',
    lasts: [1.2, 3.2],
    applies: isCluster,
    async run({ target }, { choice, milliseconds }) {
      const node = nodeOf(target, choice)
      await node.kill()
      await sleep(milliseconds)
      await node.start()
      await target.cluster!.untilWhole()
      return true
    },
  },
  /** It refuses its clients until it is back. */
  'node cut off': {
    scope: 'node',
    lasts: [4, 8],
    applies: isCluster,
    async run({ target }, { choice, milliseconds }) {
      target.cluster!.partition(nodeOf(target, choice))
      await sleep(milliseconds)
      target.cluster!.heal()
      await target.cluster!.untilWhole()
      return true
    },
  },
} satisfies Record<string, FaultKind>

export type FaultName = keyof typeof kinds
export const faultKinds: Readonly<Record<FaultName, FaultKind>> = kinds
export const faultNames = Object.keys(kinds) as FaultName[]

/** Those of the wanted kinds that can happen to this target. */
export function applicable(wanted: readonly FaultName[], target: Target): Map<FaultName, FaultTerms> {
  return new Map(wanted.filter((name) => faultKinds[name].applies(target)).map((name) => [name, faultKinds[name]]))
}

/** Does to the run what the plan says, and answers what really happened. */
export async function unleash(
  surroundings: Surroundings,
  planned: readonly PlannedFault<FaultName>[],
): Promise<Fault[]> {
  const faults: Fault[] = []
  const failed = new AbortController()
  let startedAt = clock()
  const running = new Set<Promise<void>>()
  /** The last fault at each place, which may take longer than planned. */
  const lastAt = new Map<number, Promise<void>>()
  let nodes: Promise<void> | undefined
  for (const fault of planned) {
    await sleep(Math.max(0, startedAt + fault.at - clock()), undefined, { signal: failed.signal }).catch(
      () => undefined,
    )
    failed.signal.throwIfAborted()
    const { scope } = faultKinds[fault.kind]
    // It takes a cluster longer to be whole again than the plan can know.
    if (scope === 'node' && nodes !== undefined) continue
    const before = scope === 'server' ? [...running] : [fault.place === null ? undefined : lastAt.get(fault.place)]
    const from = clock()
    const execution = Promise.all(before)
      .then(() => execute(surroundings, fault))
      .then(
        (done) => void faults.push(done),
        (error: unknown) => failed.abort(error),
      )
      .finally(() => {
        running.delete(execution)
        if (nodes === execution) nodes = undefined
      })
    running.add(execution)
    if (fault.place !== null) lastAt.set(fault.place, execution)
    if (scope === 'node') nodes = execution
    if (scope !== 'server') continue
    await execution
    // The rest keeps its distance, however long that took.
    startedAt += Math.max(0, clock() - from - fault.milliseconds)
  }
  await Promise.all(running)
  failed.signal.throwIfAborted()
  return faults
}

async function execute(surroundings: Surroundings, planned: PlannedFault<FaultName>): Promise<Fault> {
  const { kind, place } = planned
  const { scope, kills = false, stops = false, setsClock = false, run } = faultKinds[kind]
  const worker = place === null ? null : surroundings.crew.numberAt(place)
  const from = clock()
  let fired: boolean
  try {
    fired = await run(surroundings, { ...planned, place: place ?? -1 })
  } catch (error) {
    // The node that it wanted to do something to may have a fault already.
    if (surroundings.target.cluster === null || !NODE_IS_AWAY.includes(codeOf(error))) throw error
    fired = false
  }
  return { kind, scope, worker, from, until: clock(), fired, kills, stops, setsClock }
}

async function blackhole({ crew }: Surroundings, fault: PlannedFault & { place: number }, direction: Direction) {
  crew.proxy(fault.place).blackhole(direction)
  await sleep(fault.milliseconds)
  crew.proxy(fault.place).restore()
  return true
}

async function cut({ crew }: Surroundings, { place }: { place: number }, after?: (request: Buffer) => boolean) {
  const proxy = crew.proxy(place)
  const before = proxy.cuts
  proxy.cutReplies({ times: 1, ...(after && { after }) })
  const end = clock() + CUT_MS
  while (proxy.cuts === before && clock() < end) await sleep(2)
  proxy.restore()
  return proxy.cuts > before
}

/** Locks a counter and, when a guarded transaction waits for that, the lock's row. Whether the other one was the victim. */
async function deadlock(target: Target, connection: TestConnection, observer: TestConnection, lock: string) {
  const { dialect } = target
  await connection.query(dialect === 'postgres' ? 'begin' : 'start transaction')
  try {
    await carryBallast(connection, target)
    await connection.query(`select value from work_counters where name = '${lock}' for update`)
    const id = await sessionId(connection, dialect)
    const end = clock() + TRAP_MS
    let isTrapped = false
    while (!isTrapped && clock() < end) {
      await sleep(MARIADB_CACHE_MS)
      isTrapped = await isWaitedFor(observer, dialect, id)
    }
    await connection.query(`select token from rowlock_locks where name = '${lock}' for update`)
    return isTrapped
  } catch (error) {
    if (!VICTIM.includes(codeOf(error))) throw error
    return false
  } finally {
    await rollBack(connection)
  }
}

/** A user's own transaction on some rows; on SQLite, where there are no row locks, on the whole file. */
function whileLocked(target: Target, select: string, names: readonly string[], milliseconds: number): Promise<boolean> {
  return using(target, async (connection) => {
    const list = names.map((name) => `'${name}'`).join(', ')
    const begin = { postgres: 'begin', mysql: 'start transaction', sqlite: 'begin immediate' }[target.dialect]
    for (let tries = 0; tries < LOCKING_TRIES; tries++) {
      let isOpen = false
      try {
        await connection.query(begin)
        isOpen = true
        if (target.dialect !== 'sqlite') await connection.query(`${select} where name in (${list}) for update`)
        await sleep(milliseconds)
        return true
      } catch (error) {
        if (!VICTIM.includes(codeOf(error))) throw error
      } finally {
        if (isOpen) await rollBack(connection)
      }
    }
    return false
  })
}

/** Galera tells a transaction that it was the victim when it ends, too. */
async function rollBack(connection: TestConnection): Promise<void> {
  try {
    await connection.query('rollback')
  } catch (error) {
    // With its node, or its server, the connection is gone, and its transaction with it.
    const isGone = (error as { fatal?: boolean }).fatal === true
    if (!isGone && !VICTIM.includes(codeOf(error))) throw error
  }
}

async function carryBallast(connection: TestConnection, { dialect }: Target): Promise<void> {
  if (dialect !== 'mysql') return
  const rows = Array.from({ length: BALLAST_ROWS }, () => "('ballast', 'ballast', 0)").join(', ')
  await connection.query(`insert into work_entries (name, operation, value) values ${rows}`)
}

/** Uses a connection to the node that the worker at `place` is connected to. */
async function using<T>(target: Target, use: (connection: TestConnection) => Promise<T>, place = 0): Promise<T> {
  const connection = await target.connect(place)
  try {
    return await use(connection)
  } finally {
    await connection.close()
  }
}

function half(locks: readonly string[], choice: number): string[] {
  const first = Math.floor(choice * locks.length)
  return locks.map((_, index) => locks[(first + index) % locks.length]!).slice(0, Math.ceil(locks.length / 2))
}

function codeOf(error: unknown): string {
  return String((error as { code?: unknown }).code)
}
