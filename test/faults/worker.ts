import { EventEmitter, setMaxListeners } from 'node:events'
import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import {
  createLocks,
  type InstanceOptions,
  type Lease,
  LockError,
  type Locks,
  type Semaphore,
} from '../../src/index.ts'
import {
  clock,
  type HistoryEvent,
  HistoryWriter,
  type Mode,
  type OperationId,
  StayWatch,
  type Weight,
  type Write,
} from './history.ts'
import { type Random, random } from './schedule.ts'
import {
  connectWork,
  type Dialect,
  describe,
  type Ending,
  HOT_LOCKS,
  type NewEntry,
  PERMITS,
  type Work,
} from './work.ts'

/** One process of callers that take locks and write, until it is told to finish. Run by crew.ts. */

export interface WorkerSettings {
  /** Unique in a run; a worker that replaces another has a number of its own. */
  readonly number: number
  readonly dialect: Dialect
  readonly url: string
  readonly historyFile: string
  readonly seed: number
  readonly ttlMs: number
  readonly waitMs: number
  readonly locks: LockNames
  /** How many there are at each kind of work. */
  readonly callers: Readonly<Record<Kind, number>>
}

/** Locks of the guarded work, and those of each negative control. */
export interface LockNames {
  readonly guarded: readonly string[]
  readonly withoutGuard: readonly string[]
  readonly checkThenAct: readonly string[]
  /** Locks with readers and writers, and semaphores. */
  readonly modes: readonly string[]
  readonly permits: readonly string[]
  readonly modesWithoutGuard: readonly string[]
  readonly permitsWithoutGuard: readonly string[]
}

/** The guarded work is done a second time over a pool whose connections are all taken: by its own transactions. */
export type Kind = keyof LockNames | 'overNarrowPool' | 'leaving'

/** From the crew. */
export type Order =
  | { readonly type: 'stall'; readonly milliseconds: number }
  | { readonly type: 'exhaust'; readonly milliseconds: number }
  /** These are answered by reports. */
  | { readonly type: 'drop notifications'; readonly milliseconds: number }
  | { readonly type: 'tell when at risk' }
  | { readonly type: 'finish' }

/** To the crew. */
export type Report =
  | { readonly type: 'ready' }
  /** A write to the external register. */
  | { readonly type: 'register'; readonly lock: string; readonly token: number; readonly operation: OperationId }
  | { readonly type: 'notifications dropped'; readonly count: number }
  /** Some caller under a lease without a guard has read, and not yet written. */
  | { readonly type: 'at risk' }

/** How often the event loop is looked at, and what counts as a stall. */
const TICK_MS = 5
const GAP_MS = 20
/** Between what a caller reads and what it writes. Half of the pauses are only as long as it takes others to run. */
const LONGEST_THOUGHT_MS = 6
/** Controls think longer, since most of what happens to them has to happen there. */
const CONTROL_THOUGHT_MS = [80, 200] as const
const MOST_WRITES_PER_LEASE = 10
/** Readers come together, and writers are alone. */
const MOST_WRITES_BETWEEN_READERS = 2
const MOST_PERMITS_AT_ONCE = 3
/** How many of the turns are at the hot locks. */
const HOT_SHARE = 0.2
const EXTERNAL_SHARE = 0.1
const STATEMENT_TIMEOUT = '2s'
const NARROW_POOL_SIZE = 3
const PENDING_WAIT_MS = 1000
/** Callers who leave do so within that time, so that many a hand-off is under way. */
const LEAVE_WITHIN_MS = 3
/** After a failure that came at once, as when there is no server. */
const REST_MS = 100

const settings = JSON.parse(process.argv[2] ?? '') as WorkerSettings
const { number, locks: names, dialect } = settings
const history = new HistoryWriter(settings.historyFile)
const finishing = new AbortController()
setMaxListeners(0, finishing.signal)
const options: InstanceOptions = {
  signal: finishing.signal,
  ttl: settings.ttlMs,
  wait: settings.waitMs,
  statementTimeout: STATEMENT_TIMEOUT,
}
const work = await connectWork(dialect, settings.url)
const locks = createLocks(work.adapter, options)
const narrowWork = await connectWork(dialect, settings.url, NARROW_POOL_SIZE)
const narrowLocks = createLocks(narrowWork.adapter, options)
const LEFT = new Error('left')
/** The leases that are believed in, and until when, as the history has it. */
const believed = new Map<Lease<unknown>, { readonly operation: OperationId; until: number }>()
const semaphores = new Map<string, Semaphore<unknown>>()
const risk = new EventEmitter()
let operations = 0

process.on('message', (order: Order) => {
  if (order.type === 'stall') stall(order.milliseconds)
  else if (order.type === 'exhaust') void work.exhaust(order.milliseconds)
  else if (order.type === 'drop notifications') void dropNotifications(order.milliseconds)
  else if (order.type === 'tell when at risk')
    risk.once('begin', () => process.send?.({ type: 'at risk' } satisfies Report))
  else finishing.abort(new Error('told to finish'))
})
process.on('disconnect', () => process.exit(1))
// Ctrl-C reaches all processes of the terminal. The parent decides.
process.on('SIGINT', () => undefined)

watch()
const turns: Record<Kind, (chance: Random) => Promise<boolean>> = {
  guarded: guardedTurn,
  withoutGuard,
  checkThenAct,
  overNarrowPool,
  leaving,
  modes: modesTurn,
  permits: permitsTurn,
  modesWithoutGuard,
  permitsWithoutGuard,
}
const callers = (Object.keys(turns) as Kind[]).flatMap((kind, index) =>
  Array.from({ length: settings.callers[kind] }, (_, caller) => call(turns[kind], 100 * index + caller)),
)
process.send?.({ type: 'ready' } satisfies Report)
await Promise.all(callers)
await Promise.all([locks.close(), narrowLocks.close()])
await Promise.all([work.close(), narrowWork.close()])
process.exit()

async function call(turn: (chance: Random) => Promise<boolean>, caller: number): Promise<void> {
  const chance = random(settings.seed + number * 1000 + caller)
  while (!finishing.signal.aborted) if (!(await turn(chance))) await sleep(REST_MS * (0.5 + chance()))
}

/** One turn at one lock, in one of the guarded ways. Answers whether anything came of it. */
async function guardedTurn(chance: Random): Promise<boolean> {
  const lock = guardedLock(chance)
  const dice = chance()
  if (dice < 0.5) return withLease(lock, 'lease', locks, chance)
  if (dice < 0.65) return inRun(lock, chance)
  if (dice < 0.8) return writeAndRelease(lock, chance)
  if (dice < 0.9) return inTransaction(lock, chance, work, locks)
  return withPendingLease(lock, chance)
}

/** Transactions that wait for a lock have all connections of their pool, beside leases whose renewals must not wait for one. */
async function overNarrowPool(chance: Random): Promise<boolean> {
  const lock = guardedLock(chance)
  if (chance() < 0.9) return inTransaction(lock, chance, narrowWork, narrowLocks)
  return withLease(lock, 'lease over narrow pool', narrowLocks, chance)
}

/** Wants a lock that is handed from one to the next all the time, and leaves at once: what it is handed is for the next. */
async function leaving(chance: Random): Promise<boolean> {
  const lock = pick(names.guarded.slice(0, HOT_LOCKS), chance)
  const operation = begin(lock, 'lease')
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(LEFT), LEAVE_WITHIN_MS * chance())
  try {
    const lease = await locks.acquire(lock, { signal: controller.signal })
    believe(operation, lease)
    await release(operation, lease)
  } catch (error) {
    if (error === LEFT) note(operation, () => ({ type: 'left' }))
    else end(operation, failure(error))
  } finally {
    clearTimeout(timer)
  }
  return false
}

function guardedLock(chance: Random): string {
  return pick(chance() < HOT_SHARE ? names.guarded.slice(0, HOT_LOCKS) : names.guarded, chance)
}

/** One turn at a lock with readers and writers. */
async function modesTurn(chance: Random): Promise<boolean> {
  const lock = pick(names.modes, chance)
  const dice = chance()
  if (dice < 0.2) {
    const operation = begin(lock, 'lease')
    const lease = await granted(operation, () => locks.acquire(lock))
    return giveBackAfter(operation, lease, (held) => writeUnder(held, chance, MOST_WRITES_BETWEEN_READERS))
  }
  if (dice < 0.4) return downgrading(lock, chance)
  // Where a transaction is alone, it shares nothing.
  if (dice < 0.5 && dialect !== 'sqlite') return readInTransaction(lock, chance)
  const operation = begin(lock, 'shared lease', 1)
  const lease = await granted(operation, () => locks.acquire(lock, { mode: 'shared' }))
  return giveBackAfter(operation, lease, (held) => readUnder(held, chance))
}

/** Writes alone, and then reads among others. */
async function downgrading(lock: string, chance: Random): Promise<boolean> {
  const operation = begin(lock, 'lease')
  const lease = await granted(operation, () => locks.acquire(lock))
  return giveBackAfter(operation, lease, async (held) => {
    if (!(await writeUnder(held, chance, MOST_WRITES_BETWEEN_READERS))) return false
    note(operation, () => ({ type: 'shared' }))
    try {
      await held.downgrade()
    } catch {
      // Nobody knows how it is held. The caller gives it back.
      return false
    }
    return readUnder(held, chance)
  })
}

function readInTransaction(lock: string, chance: Random): Promise<boolean> {
  return withTransactionHold(lock, work, {
    begin: () => begin(lock, 'shared transaction', 1),
    take: (tx) => locks.within(tx).acquire(lock, { mode: 'shared' }),
    async use(tx, start) {
      const entry = start('read', null, 1)
      await readTwice(tx, entry, await work.read(lock, tx), chance)
    },
  })
}

/** One turn at a semaphore. */
async function permitsTurn(chance: Random): Promise<boolean> {
  const lock = pick(names.permits, chance)
  const weight = Math.ceil(chance() * MOST_PERMITS_AT_ONCE)
  const operation = begin(lock, 'permits', weight)
  const lease = await granted(operation, () => semaphore(lock).acquire({ weight }))
  return giveBackAfter(operation, lease, (held) => usePermits(held, weight, chance))
}

async function usePermits(lease: Lease<unknown>, weight: number, chance: Random): Promise<boolean> {
  for (let left = Math.ceil(chance() * MOST_WRITES_PER_LEASE); left > 0; left--) {
    const use = { ...under(lease, weight), value: null }
    const ending = await write('use', use, chance() < 0.5, async (tx, entry, begun) => {
      await lease.guard(tx)
      begun()
      await takeSeats(tx, entry, weight, () => think(chance))
    })
    if (ending.outcome !== 'ok') return false
  }
  return true
}

/** Seats are taken until the transaction ends: so there is one for each permit, unless there are more permits than seats. */
async function takeSeats(tx: unknown, entry: NewEntry, weight: number, pause: () => Promise<unknown>): Promise<void> {
  // A transaction of SQLite is alone anyway.
  const locking = dialect === 'sqlite' ? '' : 'for update skip locked'
  const text = `select seat from work_seats where name = $1 order by seat limit ${weight} ${locking}`
  const seats = await work.query(tx, text, [entry.lock])
  if (dialect !== 'sqlite') await pause()
  await work.query(
    tx,
    'insert into work_uses (operation, name, token, owner, weight, seats) values ($1, $2, $3, $4, $5, $6)',
    [entry.operation, entry.lock, entry.token, entry.owner, weight, seats.length],
  )
}

/** Some reads under one lease, in transactions that each look at the counter twice. */
async function readUnder(lease: Lease<unknown>, chance: Random): Promise<boolean> {
  for (let left = Math.ceil(chance() * MOST_WRITES_PER_LEASE); left > 0; left--) {
    // Otherwise it looks at a snapshot, on MySQL.
    const readsLatest = chance() < 0.8
    const inOneStatement = chance() < 0.5
    const ending = await write('read', { ...under(lease, 1), value: null }, readsLatest, async (tx, entry, begun) => {
      let first: number
      if (inOneStatement) {
        first = await work.guardedRead(tx, lease)
        begun()
      } else {
        await lease.guard(tx)
        begun()
        first = await work.read(lease.name, tx)
      }
      await readTwice(tx, entry, first, chance)
    })
    if (ending.outcome !== 'ok') return false
  }
  return true
}

async function readTwice(tx: unknown, entry: NewEntry, first: number, chance: Random): Promise<void> {
  // On SQLite nobody could do anything meanwhile.
  if (dialect !== 'sqlite') await think(chance)
  await appendRead(tx, entry, first, await work.read(entry.lock, tx))
}

async function appendRead(tx: unknown, entry: NewEntry, first: number, last: number): Promise<void> {
  await work.query(
    tx,
    'insert into work_reads (operation, name, token, owner, seen_first, seen_last) values ($1, $2, $3, $4, $5, $6)',
    [entry.operation, entry.lock, entry.token, entry.owner, first, last],
  )
}

function semaphore(name: string): Semaphore<unknown> {
  const known = semaphores.get(name) ?? locks.semaphore(name, { permits: PERMITS })
  semaphores.set(name, known)
  return known
}

async function withLease(lock: string, mode: Mode, by: Locks<unknown>, chance: Random): Promise<boolean> {
  const operation = begin(lock, mode)
  return writeAndGiveBack(operation, await granted(operation, () => by.acquire(lock)), chance)
}

async function withPendingLease(lock: string, chance: Random): Promise<boolean> {
  const asked: { operation?: OperationId; pending?: { confirm(): Promise<Lease<unknown>> } } = {}
  const ending = await work.transact(async (tx) => {
    // Not before: until then it waits for a connection, and rowlock does not know of it.
    asked.operation = begin(lock, 'pending lease')
    asked.pending = await locks.within(tx).lease(lock, { wait: dialect === 'sqlite' ? 0 : PENDING_WAIT_MS })
  })
  const { operation, pending } = asked
  if (operation === undefined) return false
  const lease = await granted(operation, async () => {
    if (pending === undefined || ending.outcome === 'fail') throw new Error(ending.outcome === 'ok' ? '' : ending.error)
    return pending.confirm()
  })
  return writeAndGiveBack(operation, lease, chance)
}

function writeAndGiveBack(operation: OperationId, lease: Lease<unknown> | undefined, chance: Random) {
  return giveBackAfter(operation, lease, (held) => writeUnder(held, chance))
}

async function giveBackAfter(
  operation: OperationId,
  lease: Lease<unknown> | undefined,
  use: (lease: Lease<unknown>) => Promise<boolean>,
): Promise<boolean> {
  if (lease === undefined) return false
  try {
    return await use(lease)
  } finally {
    await release(operation, lease)
  }
}

async function inRun(lock: string, chance: Random): Promise<boolean> {
  const operation = begin(lock, 'run')
  let wrote: boolean | undefined
  try {
    await locks.run(lock, {}, async (lease) => {
      believe(operation, lease)
      wrote = await writeUnder(lease, chance)
      disbelieve(operation, lease)
    })
  } catch (error) {
    // After the grant it is the lease that was lost, which the signal has told.
    if (wrote === undefined) end(operation, failure(error))
  }
  return wrote === true
}

async function writeAndRelease(lock: string, chance: Random): Promise<boolean> {
  const operation = begin(lock, 'write and release')
  const lease = await granted(operation, () => locks.acquire(lock))
  if (lease === undefined) return false
  const value = await next(lock, lease, chance)
  const ending =
    value !== undefined &&
    (await write('write', { ...under(lease), value }, false, async (tx, entry, begun) => {
      disbelieve(operation, lease)
      await lease.release(tx)
      begun()
      await work.write(tx, entry)
    }))
  await release(operation, lease)
  return ending !== false && ending.outcome === 'ok'
}

function inTransaction(lock: string, chance: Random, over: Work, by: Locks<unknown>): Promise<boolean> {
  return withTransactionHold(lock, over, {
    begin: () => begin(lock, 'transaction'),
    async take(tx) {
      const within = by.within(tx)
      // While a transaction is open on SQLite, nobody could release what it waits for.
      const held = dialect === 'sqlite' ? await within.tryAcquire(lock) : await within.acquire(lock)
      if (held === null) throw new LockError('LOCK_TIMEOUT', 'the lock is held')
      return held
    },
    async use(tx, start) {
      const value = (await over.read(lock, tx)) + 1
      await think(chance)
      await over.write(tx, start('write', value, null))
    },
  })
}

interface TransactionTurn {
  begin(): OperationId
  take(tx: unknown): Promise<{ readonly token: bigint }>
  /** `start` tells what is about to be written. */
  use(
    tx: unknown,
    start: (what: 'read' | 'write', value: number | null, weight: number | null) => NewEntry,
  ): Promise<void>
}

/** A turn under a hold of a transaction's own. */
async function withTransactionHold(lock: string, over: Work, turn: TransactionTurn): Promise<boolean> {
  let operation: OperationId | undefined
  let entry: NewEntry | undefined
  const stay = new StayWatch()
  const ending = await over.transact(async (tx) => {
    // Not before: until then it waits for a connection, and rowlock does not know of it.
    operation = turn.begin()
    const held = await turn.take(tx)
    const [token, owner] = [Number(held.token), `transaction ${operation}`]
    note(operation, () => ({ type: 'ok', grant: { token, owner, until: null } }))
    stay.begin()
    await turn.use(tx, (what, value, weight) => {
      entry = { lock, token, owner, value, weight, operation: nextOperation() }
      beginWrite(what, entry)
      return entry
    })
    stay.end()
    note(operation, () => ({ type: 'release' }))
  }, true)
  if (entry !== undefined) end(entry.operation, { ...ending, stay: stay.known() })
  else if (operation !== undefined && ending.outcome !== 'ok') end(operation, ending)
  return ending.outcome === 'ok'
}

/** Negative control: readers and writers without a guard. */
async function modesWithoutGuard(chance: Random): Promise<boolean> {
  const lock = pick(names.modesWithoutGuard, chance)
  const weight = chance() < 0.5 ? null : 1
  const operation = begin(lock, 'modes without guard', weight)
  const mode = weight === null ? 'exclusive' : 'shared'
  const lease = await granted(operation, () => locks.acquire(lock, { mode }))
  return giveBackAfter(operation, lease, async (held) => {
    const stay = new StayWatch()
    stay.begin()
    try {
      const value = await work.read(lock)
      risk.emit('begin')
      await sleep(between(CONTROL_THOUGHT_MS, chance))
      const ending =
        weight === null
          ? await write(
              'write',
              { ...under(held), value: value + 1 },
              false,
              (tx, entry) => work.write(tx, entry),
              stay,
            )
          : await write(
              'read',
              { ...under(held, weight), value: null },
              true,
              async (tx, entry) => appendRead(tx, entry, value, await work.read(lock, tx)),
              stay,
            )
      return ending.outcome === 'ok'
    } catch {
      return false
    }
  })
}

/** Negative control: permits without a guard. */
async function permitsWithoutGuard(chance: Random): Promise<boolean> {
  const lock = pick(names.permitsWithoutGuard, chance)
  const weight = Math.ceil(chance() * MOST_PERMITS_AT_ONCE)
  const operation = begin(lock, 'permits without guard', weight)
  const lease = await granted(operation, () => semaphore(lock).acquire({ weight }))
  return giveBackAfter(operation, lease, async (held) => {
    const stay = new StayWatch()
    stay.begin()
    const pause = () => {
      risk.emit('begin')
      return sleep(between(CONTROL_THOUGHT_MS, chance))
    }
    if (dialect === 'sqlite') await pause()
    const use = { ...under(held, weight), value: null }
    const ending = await write('use', use, true, (tx, entry) => takeSeats(tx, entry, weight, pause), stay)
    return ending.outcome === 'ok'
  })
}

/** Negative control: a lease, and no guard. */
async function withoutGuard(chance: Random): Promise<boolean> {
  const lock = pick(names.withoutGuard, chance)
  const operation = begin(lock, 'lease without guard')
  const lease = await granted(operation, () => locks.acquire(lock))
  if (lease === undefined) return false
  try {
    const value = (await work.read(lock)) + 1
    risk.emit('begin')
    await sleep(between(CONTROL_THOUGHT_MS, chance))
    const ending = await write('write', { ...under(lease), value }, false, (tx, entry) => work.write(tx, entry))
    return ending.outcome === 'ok'
  } catch {
    return false
  } finally {
    await release(operation, lease)
  }
}

/** Negative control: a flag that is looked at, and then set. It expires, as leases do, or a killed holder would keep it. */
async function checkThenAct(chance: Random): Promise<boolean> {
  const lock = pick(names.checkThenAct, chance)
  try {
    const flag = await work.readFlag(lock)
    if (flag.holder !== null && flag.expiresAt > Date.now()) return false
    await work.writeFlag(lock, { holder: `${number}`, expiresAt: Date.now() + settings.ttlMs })
    const value = (await work.read(lock)) + 1
    await sleep(between(CONTROL_THOUGHT_MS, chance))
    const entry = { lock, token: null, owner: null, weight: null, value }
    const ending = await write('write', entry, false, (tx, written) => work.write(tx, written))
    await work.writeFlag(lock, { holder: null, expiresAt: 0 })
    return ending.outcome === 'ok'
  } catch {
    // The database was away, before or after the write, which has its own ending.
    return false
  }
}

/** Some writes under one lease. It is given up at the first that does not succeed: nobody knows when an ambiguous one ends. */
async function writeUnder(lease: Lease<unknown>, chance: Random, most = MOST_WRITES_PER_LEASE): Promise<boolean> {
  for (let left = Math.ceil(chance() * most); left > 0; left--) {
    const value = await next(lease.name, lease, chance)
    if (value === undefined) return false
    const inOneStatement = chance() < 0.5
    const ending = await write('write', { ...under(lease), value }, false, (tx, entry, begun) =>
      inOneStatement ? work.guardedWrite(tx, lease, entry) : guardThenWrite(tx, lease, entry, begun),
    )
    if (ending.outcome !== 'ok') return false
  }
  return true
}

function guardThenWrite(tx: unknown, lease: Lease<unknown>, entry: NewEntry, begun: () => void): Promise<void> | void {
  if (dialect === 'sqlite') return work.guardedWrite(tx, lease, entry)
  return lease.guard(tx).then(() => {
    begun()
    return work.write(tx, entry)
  })
}

/** Reads the counter and thinks; sometimes tells the register, without looking again whether the lease still stands. */
async function next(lock: string, lease: Lease<unknown>, chance: Random): Promise<number | undefined> {
  let value: number
  try {
    value = (await work.read(lock)) + 1
  } catch {
    return undefined
  }
  await think(chance)
  if (chance() < EXTERNAL_SHARE) {
    const report: Report = { type: 'register', lock, token: Number(lease.token), operation: nextOperation() }
    process.send?.(report, () => undefined)
  }
  return value
}

/** One transaction. Its body says when the protection has begun; a body that does not say it has it at its end. */
async function write(
  action: Write['action'],
  what: Omit<NewEntry, 'operation'>,
  readsLatest: boolean,
  body: (tx: unknown, entry: NewEntry, begun: () => void) => Promise<void> | void,
  stay = new StayWatch(),
): Promise<Ending> {
  const entry = { ...what, operation: nextOperation() }
  beginWrite(action, entry)
  const ended = () => stay.end()
  const ending = await work.transact((tx) => {
    const waiting = body(tx, entry, () => stay.begin())
    return waiting === undefined ? ended() : waiting.then(ended)
  }, readsLatest)
  end(entry.operation, { ...ending, stay: stay.known() })
  return ending
}

function under(lease: Lease<unknown>, weight: Weight = null) {
  return { lock: lease.name, token: Number(lease.token), owner: lease.owner, weight }
}

async function granted(operation: OperationId, acquire: () => Promise<Lease<unknown>>) {
  try {
    const lease = await acquire()
    believe(operation, lease)
    return lease
  } catch (error) {
    end(operation, failure(error))
    return undefined
  }
}

async function release(operation: OperationId, lease: Lease<unknown>): Promise<void> {
  disbelieve(operation, lease)
  try {
    await lease.release()
  } catch {
    // The database could not be asked: the lock frees itself.
  }
}

function believe(operation: OperationId, lease: Lease<unknown>): void {
  const until = endOfTrust(lease)
  note(operation, () => ({ type: 'ok', grant: { token: Number(lease.token), owner: lease.owner, until } }))
  believed.set(lease, { operation, until })
  const { signal } = lease
  const lost = () => {
    believed.delete(lease)
    note(operation, () => ({ type: 'lost' }))
  }
  if (signal.aborted) lost()
  else signal.addEventListener('abort', lost, { once: true })
}

function disbelieve(operation: OperationId, lease: Lease<unknown>): void {
  believed.delete(lease)
  note(operation, () => ({ type: 'release' }))
}

function begin(lock: string, mode: Mode, weight: Weight = null): OperationId {
  const operation = nextOperation()
  note(operation, () => ({ type: 'invoke', call: { action: 'acquire', lock, mode, weight } }))
  return operation
}

function beginWrite(action: Write['action'], { operation, ...rest }: NewEntry): void {
  note(operation, () => ({ type: 'invoke', call: { action, ...rest } }))
}

function end(operation: OperationId, ending: Ending): void {
  note(operation, () => {
    const { outcome, stay } = ending
    return outcome === 'ok' ? { type: outcome, stay } : { type: outcome, error: ending.error, stay }
  })
}

/** An acquire that failed otherwise than by waiting in vain may have been granted unheard. */
function failure(error: unknown): Ending {
  const outcome = error instanceof LockError && error.code === 'LOCK_TIMEOUT' ? 'fail' : 'info'
  return { outcome, error: describe(error) }
}

type EventBody<Event> = Event extends unknown ? Omit<Event, 'at' | 'operation'> : never

function note(operation: OperationId, body: (at: number) => EventBody<HistoryEvent>): void {
  const at = clock()
  history.write({ at, operation, ...body(at) })
}

function nextOperation(): OperationId {
  return `${number}.${++operations}`
}

async function think(chance: Random): Promise<void> {
  if (chance() < 0.5) await setImmediate()
  else await sleep(LONGEST_THOUGHT_MS * chance())
}

function between([least, most]: readonly [number, number], chance: Random): number {
  return least + (most - least) * chance()
}

function pick<T>(choices: readonly T[], chance: Random): T {
  return choices[Math.floor(chance() * choices.length)] as T
}

function stall(milliseconds: number): void {
  const end = clock() + milliseconds
  while (clock() < end);
}

async function dropNotifications(milliseconds: number): Promise<void> {
  const count = await work.dropNotifications(milliseconds)
  process.send?.({ type: 'notifications dropped', count } satisfies Report, () => undefined)
}

/** The clock is read first, so that a pause in between cannot make the trust seem to last longer. */
function endOfTrust(lease: Lease<unknown>): number {
  const now = clock()
  return now + lease.remainingMs()
}

/** Notes when the event loop has stood still, and when renewals and guards have moved the end of a trust. */
function watch(): void {
  let previous = clock()
  setInterval(() => {
    const from = previous
    previous = clock()
    // All timers that have become due meanwhile run before that.
    if (previous - from > TICK_MS + GAP_MS)
      void setImmediate()
        // What stands still before the first of them has its timers run before the second.
        .then(() => setImmediate())
        .then(() => note(`${number}.0`, () => ({ type: 'gap', from })))
    for (const [lease, belief] of believed) {
      const until = endOfTrust(lease)
      // It may have become known just now that it is lost.
      if (until < belief.until + TICK_MS || !believed.has(lease)) continue
      belief.until = until
      note(belief.operation, () => ({ type: 'held', until }))
    }
  }, TICK_MS)
}
