import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { DedicatedConnection, SqlAdapter, Statement } from '../../src/adapters/adapter.ts'
import { createLocks, type Lease, type Locks } from '../../src/index.ts'
import { type Connected, connectors } from '../adapters.ts'
import { eventually, untilWaiting } from '../contract/harness.ts'
import { engines, freshName, type OpenEngine, type TestEngine } from '../engines.ts'
import { counted } from './messages.ts'
import { QUALIFIED, type Sent, STATEMENTS } from './statements.ts'

/** How many round trips, and which statements in turn, by the names that they have in the engine, or by what they say. */
type Cost = readonly [trips: number, ...statements: string[]]

interface Costs {
  readonly pg: Cost
  readonly mysql: Cost
  readonly mariadb: Cost
  /**
   * Here there is no round trip, and the number is that of all texts that the driver executes: with each statement outside of a
   * transaction a pragma that asks for busy_timeout, one that sets it, and one that sets it back. They take microseconds.
   */
  readonly sqlite: Cost
}

const QUERY = 'update ledger set value = 1'

/** What a verb costs, so that no slower way comes back unseen. Numbers that could be smaller say how. */
const COSTS = {
  // MySQL could do with two, if it created the row without looking for it first; but an INSERT waits for who has that locked.
  'acquire of a new name': {
    pg: [1, 'acquireOne'],
    mysql: [3, 'acquire', 'read', 'create'],
    mariadb: [3, 'acquire', 'read', 'createInMariadb'],
    sqlite: [8, 'read', 'acquire'],
  },
  // SQLite could do without its look, which tells of a lock that is held without waiting for a writer.
  'acquire of a lock that is free': {
    pg: [1, 'acquireOne'],
    mysql: [1, 'acquire'],
    mariadb: [1, 'acquire'],
    sqlite: [8, 'read', 'acquire'],
  },
  // On MySQL no statement answers with several tokens.
  'acquire of three locks at once': {
    pg: [1, 'acquireAlike'],
    mysql: [2, 'acquire', 'read'],
    mariadb: [2, 'acquire', 'read'],
    sqlite: [8, 'read', 'acquire'],
  },
  'acquireAll of three locks that are free': {
    pg: [1, 'acquireAlike'],
    mysql: [2, 'acquire', 'read'],
    mariadb: [2, 'acquire', 'read'],
    sqlite: [8, 'read', 'acquire'],
  },
  // MySQL could look first, and do with one; but then a lock that is free would cost two.
  'tryAcquire of a lock that is held': {
    pg: [1, 'acquireOne'],
    mysql: [2, 'acquire', 'read'],
    mariadb: [2, 'acquire', 'read'],
    sqlite: [4, 'read'],
  },
  'release while nobody waits': {
    pg: [1, 'releaseOne'],
    mysql: [1, 'release'],
    mariadb: [1, 'release'],
    sqlite: [4, 'release'],
  },
  // On MySQL the first one finds that somebody waits: handOver alone would do, but costs more than that where nobody does.
  'release while one waits': {
    pg: [1, 'releaseOne'],
    mysql: [2, 'release', 'handOver'],
    mariadb: [2, 'release', 'handOver'],
    sqlite: [4, 'release'],
  },
  // Who had to wait expects others to wait, too.
  'release of what was handed over': {
    pg: [1, 'releaseOne'],
    mysql: [1, 'handOver'],
    mariadb: [1, 'handOver'],
    sqlite: [4, 'release'],
  },
  // MySQL could do with one where nobody waits and nothing is lost: affectedRows would tell.
  'release of three leases at once': {
    pg: [1, 'releaseUnawaited'],
    mysql: [2, 'read', 'release'],
    mariadb: [2, 'read', 'release'],
    sqlite: [4, 'release'],
  },
  // SQLite also asks whether its commit may do without the disk: for journal_mode and synchronous.
  extend: {
    pg: [1, 'renew'],
    mysql: [1, 'renew'],
    mariadb: [1, 'renew'],
    sqlite: [6, 'renew'],
  },
  'renewal of three leases': {
    pg: [1, 'renew'],
    mysql: [1, 'renew'],
    mariadb: [1, 'renew'],
    sqlite: [6, 'renew'],
  },
  // The last one of SQLite is sent to those who await the guard, and could be saved in a transaction that is known to last.
  'guard(tx)': {
    pg: [1, 'guardOne'],
    mysql: [1, 'guard'],
    mariadb: [1, 'guard'],
    sqlite: [2, 'guard', 'select 1'],
  },
  // SQLite's guards answer before the next one is asked for, so they cannot share a statement.
  'guard(tx) of three leases at once': {
    pg: [1, 'guardMany'],
    mysql: [1, 'guard'],
    mariadb: [1, 'guard'],
    sqlite: [6, 'guard', 'guard', 'guard', 'select 1', 'select 1', 'select 1'],
  },
  'guard(tx) of three leases that were acquired together': {
    pg: [1, 'guardMany'],
    mysql: [1, 'guard'],
    mariadb: [1, 'guard'],
    sqlite: [4, 'guard', 'guard', 'guard', 'select 1'],
  },
  // MySQL has no statement that fails as a whole if a part of it finds nothing.
  'guarded(tx, query)': {
    pg: [1, 'guardOne beside the query'],
    mysql: [2, 'guard', QUERY],
    mariadb: [2, 'guard', QUERY],
    sqlite: [2, 'guard', QUERY],
  },
  // MySQL looks from outside first, since a look in the transaction would fix its snapshot, or lock the holder's row.
  'within(tx).acquire, the isolation said': {
    pg: [1, 'acquireIn'],
    mysql: [2, 'read', 'takeRowNow'],
    mariadb: [2, 'read', 'takeRowInMariadb'],
    sqlite: [2, 'acquireIn', 'select 1'],
  },
  // On MySQL no statement answers with several tokens.
  'within(tx).acquireAll of three locks, the isolation said': {
    pg: [1, 'acquireFreeIn'],
    mysql: [3, 'read', 'takeFree', 'tokens'],
    mariadb: [3, 'read', 'takeFree', 'tokens'],
    sqlite: [6, 'acquireIn', 'select 1', 'acquireIn', 'select 1', 'acquireIn', 'select 1'],
  },
  // PostgreSQL has to ask for it, once for each lock; once for each transaction would do.
  'within(tx).acquire, the isolation not said': {
    pg: [2, 'show transaction_isolation', 'acquireIn'],
    mysql: [2, 'read', 'takeRowNow'],
    mariadb: [2, 'read', 'takeRowInMariadb'],
    sqlite: [2, 'acquireIn', 'select 1'],
  },
  // The second look could be left out: what has just been created is free, unless somebody came in between, as takeRow finds.
  'within(tx).acquire of a new name, the isolation said': {
    pg: [1, 'acquireIn'],
    mysql: [5, 'read', 'lockRowNow', 'createFree', 'read', 'takeRowNow'],
    mariadb: [4, 'read', 'createFreeInMariadb', 'read', 'takeRowInMariadb'],
    sqlite: [2, 'acquireIn', 'select 1'],
  },
  // MySQL asks beforehand whether a transaction is open: mysql2 tells it with an answer, and the last one is not kept.
  'release(tx)': {
    pg: [1, 'releaseIn'],
    mysql: [2, 'do 0', 'releaseIn'],
    mariadb: [2, 'do 0', 'releaseIn'],
    sqlite: [2, 'releaseIn', 'select 1'],
  },
  // MySQL decides by what it has read, and writes that; slots are made, four at once, when all are in use.
  'acquire shared of a lock that is free': {
    pg: [1, 'acquireShared'],
    mysql: [3, 'whole', 'makeSlots', 'share'],
    mariadb: [3, 'whole', 'makeSlots', 'share'],
    sqlite: [8, 'read', 'write'],
  },
  'acquire shared beside another reader': {
    pg: [1, 'acquireShared'],
    mysql: [2, 'whole', 'share'],
    mariadb: [2, 'whole', 'share'],
    sqlite: [8, 'read', 'write'],
  },
  'release of a shared lease': {
    pg: [1, 'releaseShared'],
    mysql: [2, 'whole', 'share'],
    mariadb: [2, 'whole', 'share'],
    sqlite: [8, 'read', 'write'],
  },
  'release of a shared lease beside another reader': {
    pg: [1, 'releaseShared'],
    mysql: [2, 'whole', 'share'],
    mariadb: [2, 'whole', 'share'],
    sqlite: [8, 'read', 'write'],
  },
  // The first one of an instance also asks how many permits there are.
  'acquire of a permit': {
    pg: [2, 'openSemaphore', 'acquireShared'],
    mysql: [3, 'read', 'whole', 'share'],
    mariadb: [3, 'read', 'whole', 'share'],
    sqlite: [12, 'read', 'read', 'write'],
  },
  'release of a permit': {
    pg: [1, 'releaseShared'],
    mysql: [2, 'whole', 'share'],
    mariadb: [2, 'whole', 'share'],
    sqlite: [8, 'read', 'write'],
  },
  downgrade: {
    pg: [1, 'downgrade'],
    mysql: [3, 'whole', 'makeSlots', 'changeWithSlots'],
    mariadb: [3, 'whole', 'makeSlots', 'changeWithSlots'],
    sqlite: [8, 'read', 'write'],
  },
  'once of what is done': {
    pg: [1, 'readMarksOf'],
    mysql: [1, 'readMarks'],
    mariadb: [1, 'readMarks'],
    sqlite: [4, 'readMarks'],
  },
  // The second look could be left out if the lock's token told that nobody has had it since the first one.
  'once of a new key': {
    pg: [5, 'readMarksOf', 'acquireOne', 'readMarksOf', 'writeMarkUnder', 'releaseOne'],
    mysql: [8, 'readMarks', 'acquire', 'read', 'create', 'readMarks', 'makeMark', 'writeMarkUnder', 'release'],
    mariadb: [
      8,
      'readMarks',
      'acquire',
      'read',
      'createInMariadb',
      'readMarks',
      'makeMark',
      'writeMarkUnder',
      'release',
    ],
    sqlite: [24, 'readMarks', 'read', 'acquire', 'readMarks', 'writeMarkUnder', 'release'],
  },
  // A function of PostgreSQL's could do it with one.
  'within(tx).once of a new key that has no value, the isolation said': {
    pg: [2, 'acquireIn', 'beginMark'],
    mysql: [6, 'read', 'lockRowNow', 'createFree', 'read', 'takeRowNow', 'beginMark'],
    mariadb: [5, 'read', 'createFreeInMariadb', 'read', 'takeRowInMariadb', 'beginMark'],
    sqlite: [3, 'acquireIn', 'select 1', 'beginMark'],
  },
  checkpoint: {
    pg: [1, 'writeMarkUnder'],
    mysql: [2, 'makeMark', 'writeMarkUnder'],
    mariadb: [2, 'makeMark', 'writeMarkUnder'],
    sqlite: [4, 'writeMarkUnder'],
  },
  'acquire of a lock in which somebody has left something': {
    pg: [2, 'acquireOne', 'readMarksOf'],
    mysql: [3, 'acquire', 'read', 'readMarks'],
    mariadb: [3, 'acquire', 'read', 'readMarks'],
    sqlite: [12, 'read', 'acquire', 'readMarks'],
  },
  'acquire with metadata': {
    pg: [2, 'acquireOne', 'writeMark'],
    mysql: [2, 'acquire', 'writeMark'],
    mariadb: [2, 'acquire', 'writeMark'],
    sqlite: [12, 'read', 'acquire', 'writeMark'],
  },
} as const satisfies Record<string, Costs>
type Verb = keyof typeof COSTS

const MEASURED: Readonly<Record<string, keyof Costs>> = {
  'pg on PostgreSQL 18': 'pg',
  'mysql2 on MySQL': 'mysql',
  'mysql2 on MariaDB': 'mariadb',
  'better-sqlite3': 'sqlite',
}

/** Nothing of this is renewed, or runs out, while a test runs. */
const LONG = { ttl: '5m', wait: '20s' } as const
const SHARED = { mode: 'shared' } as const
const PERMITS = { permits: 3 } as const

describe.each(engines().filter(({ name }) => name in MEASURED))('what is sent on $name', (engine) => {
  let open: OpenEngine
  let meter: Meter
  let locks: Locks<unknown>
  let others: Locks<unknown>

  beforeAll(async () => {
    open = await engine.open()
    await open.connected.sql('create table ledger (id int primary key, value int)')
    others = await open.locks(LONG)
    meter = await measured(open, engine)
    locks = await warmedUp(meter)
  })

  afterAll(async () => {
    await locks.close()
    await meter.close()
    await open.close()
  })

  /** An instance that has asked what is asked once: of the server, of each connection, and of the file. */
  const warmedUp = async (on: Meter) => {
    const warm = createLocks(on.adapter, LONG)
    const lease = await warm.acquire(freshName())
    if (engine.server !== undefined) await eventually(() => expect(on.hasOwnConnection).toBe(true))
    await on.transaction(async (tx) => {
      await lease.guard(tx)
      await warm.within(tx).acquire(freshName())
    })
    await (await handedOver(lease, others)).release()
    return warm
  }

  const cost = async (action: () => Promise<unknown>, on = meter): Promise<Cost> => {
    on.reset()
    await action()
    return [on.trips, ...on.statements]
  }
  const inTransaction = (body: (tx: unknown) => Promise<Cost>): Promise<Cost> => meter.transaction(body)

  const freed = async () => {
    const name = freshName()
    await (await others.acquire(name)).release()
    return name
  }
  const three = <T>(get: () => Promise<T>): Promise<T[]> => Promise.all([get(), get(), get()])
  const leased = () => locks.acquire(freshName())

  /** The lease of a caller of `waiting`, to whom this one is handed over. */
  const handedOver = async (lease: Lease<unknown>, waiting: Locks<unknown>, release = () => lease.release()) => {
    const next = waiting.acquire(lease.name)
    await untilWaiting(others, lease.name)
    await release()
    return next
  }

  const measurements: Record<Verb, () => Promise<Cost>> = {
    async 'acquire of a new name'() {
      return cost(leased)
    },
    async 'acquire of a lock that is free'() {
      const name = await freed()
      return cost(() => locks.acquire(name))
    },
    async 'acquire of three locks at once'() {
      const names = await three(freed)
      return cost(() => Promise.all(names.map((name) => locks.acquire(name))))
    },
    async 'acquireAll of three locks that are free'() {
      const names = await three(freed)
      return cost(() => locks.acquireAll(names))
    },
    async 'tryAcquire of a lock that is held'() {
      const { name } = await others.acquire(freshName())
      return cost(async () => expect(await locks.tryAcquire(name)).toBeNull())
    },
    async 'release while nobody waits'() {
      const lease = await leased()
      return cost(() => lease.release())
    },
    async 'release while one waits'() {
      const lease = await leased()
      let found: Cost | undefined
      const release = async () => {
        found = await cost(() => lease.release())
        return true
      }
      await handedOver(lease, others, release)
      return found!
    },
    async 'release of what was handed over'() {
      // Of its own, since from then on it asks every now and then whether its listening session lives.
      await using own = await measured(open, engine)
      await using waiting = await warmedUp(own)
      const lease = await handedOver(await others.acquire(freshName()), waiting)
      await lease.extend('5m')
      // What was sent on behalf of those who wait is over then.
      await eventually(async () => expect(await cost(() => sleep(100), own)).toEqual([0]))
      return cost(() => lease.release(), own)
    },
    async 'release of three leases at once'() {
      const leases = await three(leased)
      return cost(() => Promise.all(leases.map((lease) => lease.release())))
    },
    async extend() {
      const lease = await leased()
      return cost(() => lease.extend('6m'))
    },
    async 'renewal of three leases'() {
      const leases = await three(() => locks.acquire(freshName(), { ttl: '3s' }))
      let renewed = 0
      const off = locks.on(({ type }) => void (type === 'renewed' && renewed++))
      const found = await cost(() => eventually(() => expect(renewed).toBe(leases.length)))
      off()
      for (const lease of leases) await lease.release()
      return found
    },
    async 'guard(tx)'() {
      const lease = await leased()
      return inTransaction((tx) => cost(async () => lease.guard(tx)))
    },
    async 'guard(tx) of three leases at once'() {
      const leases = await three(leased)
      return inTransaction((tx) => cost(() => Promise.all(leases.map(async (lease) => lease.guard(tx)))))
    },
    async 'guard(tx) of three leases that were acquired together'() {
      const leases = await locks.acquireAll(await three(freed))
      return inTransaction((tx) => cost(async () => leases.guard(tx)))
    },
    async 'guarded(tx, query)'() {
      const lease = await leased()
      return inTransaction((tx) => cost(() => lease.guarded(tx, { text: QUERY, values: [] })))
    },
    async 'within(tx).acquire, the isolation said'() {
      const name = await freed()
      return inTransaction((tx) => cost(() => locks.within(tx, { isolation: 'read committed' }).acquire(name)))
    },
    async 'within(tx).acquireAll of three locks, the isolation said'() {
      const names = await three(freed)
      return inTransaction((tx) => cost(() => locks.within(tx, { isolation: 'read committed' }).acquireAll(names)))
    },
    async 'within(tx).acquire, the isolation not said'() {
      const name = await freed()
      return inTransaction((tx) => cost(() => locks.within(tx).acquire(name)))
    },
    async 'within(tx).acquire of a new name, the isolation said'() {
      return inTransaction((tx) => cost(() => locks.within(tx, { isolation: 'read committed' }).acquire(freshName())))
    },
    async 'release(tx)'() {
      const lease = await leased()
      return inTransaction((tx) => cost(() => lease.release(tx)))
    },
    async 'acquire shared of a lock that is free'() {
      const name = await freed()
      return cost(() => locks.acquire(name, SHARED))
    },
    async 'acquire shared beside another reader'() {
      const { name } = await others.acquire(freshName(), SHARED)
      return cost(() => locks.acquire(name, SHARED))
    },
    async 'release of a shared lease'() {
      const lease = await locks.acquire(freshName(), SHARED)
      return cost(() => lease.release())
    },
    async 'release of a shared lease beside another reader'() {
      const { name } = await others.acquire(freshName(), SHARED)
      const lease = await locks.acquire(name, SHARED)
      return cost(() => lease.release())
    },
    async 'acquire of a permit'() {
      const name = freshName()
      await (await others.semaphore(name, PERMITS).acquire()).release()
      return cost(() => locks.semaphore(name, PERMITS).acquire())
    },
    async 'release of a permit'() {
      const lease = await locks.semaphore(freshName(), PERMITS).acquire()
      return cost(() => lease.release())
    },
    async downgrade() {
      const lease = await leased()
      return cost(() => lease.downgrade())
    },
    async 'once of what is done'() {
      const key = freshName()
      await others.once(key, {}, () => 1)
      return cost(() => locks.once(key, {}, () => 2))
    },
    async 'once of a new key'() {
      return cost(() => locks.once(freshName(), {}, () => 1))
    },
    async 'within(tx).once of a new key that has no value, the isolation said'() {
      const once = (tx: unknown) =>
        locks.within(tx, { isolation: 'read committed' }).once(freshName(), {}, () => undefined)
      return inTransaction((tx) => cost(() => once(tx)))
    },
    async checkpoint() {
      const lease = await leased()
      return cost(() => lease.checkpoint(1))
    },
    async 'acquire of a lock in which somebody has left something'() {
      const lease = await others.acquire(freshName())
      await lease.checkpoint(1)
      await lease.release()
      return cost(() => locks.acquire(lease.name))
    },
    async 'acquire with metadata'() {
      const name = await freed()
      return cost(() => locks.acquire(name, { metadata: 1 }))
    },
  }

  it.each(Object.keys(COSTS) as Verb[])('%s', async (verb) => {
    expect(await measurements[verb]()).toEqual(COSTS[verb][MEASURED[engine.name]!])
  })
})

/** A connection whose statements, and round trips, are counted; its transactions are READ COMMITTED. */
interface Meter extends Connected, AsyncDisposable {
  /** Whether rowlock has opened a connection of its own. */
  readonly hasOwnConnection: boolean
  /** Since `reset`. */
  readonly trips: number
  readonly statements: readonly string[]
  reset(): void
}

async function measured({ url }: OpenEngine, engine: TestEngine): Promise<Meter> {
  const sent: string[] = []
  const way = engine.server === undefined ? undefined : await counted(url)
  let executed = 0
  // With one connection in the pool, that is the one which has been asked what there is to be asked.
  const options = { poolSize: 1, onExecuted: () => executed++ }
  const connected = await connectors[engine.connector as 'pg' | 'mysql2' | 'better-sqlite3'](way?.url ?? url, options)
  const trips = () => way?.messages ?? executed
  let before = 0
  let hasOwnConnection = false
  const opened = () => {
    hasOwnConnection = true
  }
  const close = async () => {
    await connected.close()
    await way?.close()
  }
  return {
    ...connected,
    adapter: listed(connected.adapter as SqlAdapter<unknown>, sent, opened),
    transaction: (body) => connected.transaction(body, way && 'read committed'),
    get hasOwnConnection() {
      return hasOwnConnection
    },
    get trips() {
      return trips() - before
    },
    get statements() {
      return sent.map((text) => nameOf(engine, text))
    },
    reset() {
      sent.length = 0
      before = trips()
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** The same adapter, which lists what it sends, and tells when it has opened a connection beside the pool. */
function listed(adapter: SqlAdapter<unknown>, sent: string[], opened: () => void): SqlAdapter<unknown> {
  const listing = <Answer>({ text }: Statement, send: () => Answer): Answer => {
    sent.push(text)
    return send()
  }
  const { dedicate } = adapter
  return {
    ...adapter,
    query: (statement) => listing(statement, () => adapter.query(statement)),
    queryIn: (tx, statement) => listing(statement, () => adapter.queryIn(tx, statement)),
    ...(dedicate && {
      async dedicate(): Promise<DedicatedConnection> {
        const connection = await dedicate.call(adapter)
        opened()
        return { ...connection, query: (statement) => listing(statement, () => connection.query(statement)) }
      },
    }),
  }
}

/** Of a statement of the engine's, about one lock or three, or with a query beside it; of any other statement its text. */
function nameOf({ engine }: TestEngine, text: string): string {
  const statements =
    engine === 'memory' ? [] : Object.entries<Sent>(engine === 'postgres' ? QUALIFIED : STATEMENTS[engine])
  const same = statements.find(([, sent]) => sent.text === text || [3, 4].some((rows) => sent.ofMany?.(rows) === text))
  if (same !== undefined) return same[0]
  const part = text.startsWith('with rowlock_query as') && statements.find(([, sent]) => text.includes(sent.text))
  return part ? `${part[0]} beside the query` : text
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
