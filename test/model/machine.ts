import fc from 'fast-check'
import { expect } from 'vitest'
import { createLocks, type Lease, LockLostError, type Locks } from '../../src/index.ts'
import type { Connected } from '../adapters.ts'
import { eventually, settled } from '../contract/harness.ts'
import { freshName, type OpenEngine, type TestEngine } from '../engines.ts'

/** Instances, each on a connection of its own, as many processes would have them. */
const INSTANCES = 3
const LOCKS = 2
/** Nothing runs out by itself, but what is meant to. */
const PATIENT = { ttl: '10m', wait: '10m', statementTimeout: '30s' } as const
const SHORT_TTL_MS = 60
/** The instance that the clerk counts as. */
const CLERK = INSTANCES

/** What should be true of one lock. */
interface LockModel {
  holder: Holder | null
  /** In the order in which they came. */
  readonly queue: Waiter[]
  /** Leases that ended without their holder's doing, or on another handle. */
  readonly lost: Holder[]
  lastToken: bigint
}

interface Holder {
  readonly lease: Lease<unknown>
  readonly instance: number
  /** All that have a handle of it. */

  readonly instances: Set<number>
}

interface Waiter {
  readonly instance: number
  readonly abort: AbortController
  readonly acquiring: Promise<PromiseSettledResult<Lease<unknown>>>
  served: boolean
}

interface OpenTransaction {
  readonly lock: LockModel
  /** Resolves to commit, rejects to roll back. */
  end(commit: boolean): Promise<void>
  /** Of the hold that ends with it, if it is one. */
  readonly token?: bigint | undefined
  /** A release that was asked for meanwhile. */
  releasing: Promise<boolean> | undefined
}

export interface Model {
  readonly locks: readonly LockModel[]
  transaction: OpenTransaction | null
}

export interface Real {
  readonly engine: TestEngine
  readonly instances: Locks<unknown>[]
  /** Those of the instances. */
  readonly connections: Connected[]
  /** An instance for transactions: on SQLite one that is open takes in all that happens on its connection. */
  readonly clerk: Locks<unknown>
  readonly desk: Connected
  readonly names: readonly string[]
}

/** One set of instances serves all runs on an engine. */
export async function openInstances(engine: TestEngine, database: OpenEngine): Promise<Omit<Real, 'names'>> {
  const connections: Connected[] = []
  for (let index = 0; index < INSTANCES; index++) connections.push(await database.connect())
  const desk = await database.connect()
  return {
    engine,
    instances: connections.map(({ adapter }) => createLocks(adapter, PATIENT)),
    connections,
    clerk: createLocks(desk.adapter, PATIENT),
    desk,
  }
}

export async function closeInstances({ instances, clerk }: Omit<Real, 'names'>): Promise<void> {
  await Promise.all([...instances, clerk].map((instance) => instance.close()))
}

/** Locks that nobody has used yet. */
export function setUp(instances: Omit<Real, 'names'>): { model: Model; real: Real } {
  const locks = Array.from({ length: LOCKS }, () => ({ holder: null, queue: [], lost: [], lastToken: 0n }))
  return { model: { locks, transaction: null }, real: { ...instances, names: locks.map(freshName) } }
}

/** Ends what a run has left open. */
export async function tearDown({ transaction, locks }: Model): Promise<void> {
  for (const { queue } of locks) for (const { abort } of queue) abort.abort()
  await transaction?.end(false)
  await transaction?.releasing
}

/** A command on one lock of one instance; what else it picks, it picks by `choice`. */
interface Target {
  readonly model: Model
  readonly real: Real
  readonly lock: LockModel
  readonly name: string
  readonly instance: number
  readonly locks: Locks<unknown>
  readonly choice: number
}

type Command = fc.AsyncCommand<Model, Real>

const targets = fc.tuple(fc.nat(LOCKS - 1), fc.nat(INSTANCES - 1), fc.nat(6))

/** `can` looks at the model alone. After each command all locks must be as the model says. */
function command(
  title: string,
  can: (lock: LockModel, model: Model, engine: TestEngine) => boolean,
  run: (target: Target) => Promise<void>,
): (engine: TestEngine) => fc.Arbitrary<Command> {
  return (engine) =>
    targets.map(([lock, instance, choice]) => ({
      check: (model) => can(model.locks[lock]!, model, engine),
      async run(model, real) {
        const at = { model, real, lock: model.locks[lock]!, name: real.names[lock]! }
        await run({ ...at, instance, locks: real.instances[instance]!, choice })
        if (model.transaction === null) await compare(model, real)
      },
      toString: () => `${title}(lock ${lock}, instance ${instance}, ${choice})`,
    }))
}

const alone = (_: LockModel, { transaction }: Model) => transaction === null
const awaited = (lock: LockModel, model: Model) => alone(lock, model) && lock.queue.length > 0
const free = (lock: LockModel, model: Model) => alone(lock, model) && lock.holder === null
const held = (lock: LockModel, model: Model) => alone(lock, model) && lock.holder !== null
const guarded = (lock: LockModel, { transaction }: Model) => transaction !== null && transaction.lock === lock

const often = <T>(times: number, item: T): T[] => Array<T>(times).fill(item)

export const commands: readonly ((engine: TestEngine) => fc.Arbitrary<Command>)[] = [
  ...often(
    6,
    command('acquire', alone, async ({ lock, name, instance, locks, real }) => {
      if (lock.holder === null) return hold(lock, instance, await locks.acquire(name))
      lock.queue.push(startWaiting(locks, name, instance))
      await compareLock(lock, name, real)
    }),
  ),

  command('tryAcquire', alone, async ({ lock, name, instance, locks }) => {
    const lease = await locks.tryAcquire(name)
    if (lock.holder === null) hold(lock, instance, lease!)
    else expect(lease).toBeNull()
  }),

  ...often(
    2,
    command('release', held, async ({ lock }) => {
      const { lease } = lock.holder!
      expect(await lease.release()).toBe(true)
      expect(lease.isHeld()).toBe(false)
      await serveNext(lock)
    }),
  ),

  command('extend', held, async ({ lock }) => {
    await lock.holder!.lease.extend('20m')
    expect(lock.holder!.lease.remainingMs()).toBeGreaterThan(600_000)
  }),

  ...often(
    2,
    command('abort a wait', awaited, async ({ lock, choice }) => {
      const [waiter] = lock.queue.splice(choice % lock.queue.length, 1)
      waiter!.abort.abort('not wanted any more')
      expect(await waiter!.acquiring).toEqual({ status: 'rejected', reason: 'not wanted any more' })
    }),
  ),

  ...often(
    2,
    // The waiter is handed the lock, or has left the queue before: never neither nor both.
    command('release while the first waiter aborts', awaited, async ({ lock, choice }) => {
      const first = lock.queue[0]!
      const { lease } = lock.holder!
      const abort = () => first.abort.abort('not wanted any more')
      if (choice % 2 === 0) abort()
      const releasing = lease.release()
      if (choice % 2 === 1) setTimeout(abort, choice / 2)
      expect(await releasing).toBe(true)
      if ((await first.acquiring).status === 'rejected') lock.queue.shift()
      await serveNext(lock)
    }),
  ),

  command('forceRelease', alone, async ({ lock, name, locks }) => {
    expect(await locks.forceRelease(name)).toBe(lock.holder !== null)
    if (lock.holder === null) return
    lock.lost.push(lock.holder)
    await serveNext(lock)
  }),

  command(
    'use a lost lease',
    (lock, model) => alone(lock, model) && lock.lost.length > 0,
    async ({ lock, choice, real }) => {
      const { lease, instance } = lock.lost[choice % lock.lost.length]!
      const using = (real.connections[instance] ?? real.desk).transaction((tx) => lease.guard(tx))
      await expect(using).rejects.toBeInstanceOf(LockLostError)
      await expect(lease.extend('1m')).rejects.toBeInstanceOf(LockLostError)
      expect(await lease.release()).toBe(false)
    },
  ),

  command('let a lease run out', free, async ({ lock, name, instance, locks, real, choice }) => {
    const short = await locks.acquire(name, { ttl: SHORT_TTL_MS, renew: false })
    rises(lock, short)
    const successor = (instance + choice) % INSTANCES
    const lease = await real.instances[successor]!.acquire(name)
    expect(short.isHeld()).toBe(false)
    lock.lost.push({ lease: short, instance, instances: new Set() })
    hold(lock, successor, lease)
  }),

  command('restore', held, async ({ lock, instance, locks }) => {
    const { lease, instances } = lock.holder!
    const copy = await locks.restore(JSON.parse(JSON.stringify(lease)))
    expect(copy.token).toBe(lease.token)
    lock.holder = { lease: copy, instance, instances: new Set([...instances, instance]) }
  }),

  command('purge', alone, async ({ locks }) => {
    expect(await locks.purge({ idleFor: 0 })).toBeGreaterThanOrEqual(0)
  }),

  command('close', alone, async ({ model, real, instance, locks }) => {
    await locks.close()
    real.instances[instance] = createLocks(real.connections[instance]!.adapter, PATIENT)
    for (const lock of model.locks) {
      for (const waiter of lock.queue.filter((each) => each.instance === instance)) {
        expect((await waiter.acquiring).status).toBe('rejected')
        lock.queue.splice(lock.queue.indexOf(waiter), 1)
      }
      if (lock.holder?.instances.has(instance)) await serveNext(lock)
    }
  }),

  ...often(
    2,
    command('guard', held, async ({ model, lock, real }) => {
      const { lease } = lock.holder!
      const guarding =
        real.engine.engine === 'sqlite' ? await real.clerk.restore(lease.toJSON(), { renew: false }) : lease
      model.transaction = await begin(real, lock, (tx) => guarding.guard(tx))
    }),
  ),

  command('hold in a transaction', free, async ({ model, lock, name, real }) => {
    let token: bigint | undefined
    const transaction = await begin(real, lock, async (tx) => {
      token = (await real.clerk.within(tx).tryAcquire(name))?.token
    })
    expect(token).toBeGreaterThan(lock.lastToken)
    model.transaction = { ...transaction, token }
  }),

  command('lease in a transaction', free, async ({ lock, name, real, choice }) => {
    const commit = choice % 2 === 0
    let pending: { confirm(): Promise<Lease<unknown>> } | undefined
    const transaction = await begin(real, lock, async (tx) => {
      pending = await real.clerk.within(tx).lease(name)
    })
    await transaction.end(commit)
    if (commit) hold(lock, CLERK, await pending!.confirm())
    else await expect(pending!.confirm()).rejects.toBeInstanceOf(LockLostError)
  }),

  ...often(
    2,
    command(
      'wait behind a transaction',
      (lock, model) => guarded(lock, model) && lock.queue.length === 0,
      async ({ lock, name, instance, locks }) => {
        lock.queue.push(startWaiting(locks, name, instance))
      },
    ),
  ),

  command(
    'tryAcquire behind a transaction',
    // On SQLite nobody can write before it ends, and only a lease can be seen.
    (lock, model, engine) => guarded(lock, model) && (engine.engine !== 'sqlite' || lock.holder !== null),
    async ({ name, locks }) => {
      expect(await locks.tryAcquire(name)).toBeNull()
    },
  ),

  ...often(
    2,
    command(
      'release behind a transaction',
      (lock, model) => guarded(lock, model) && lock.holder !== null && model.transaction!.releasing === undefined,
      async ({ model, lock }) => {
        model.transaction!.releasing = lock.holder!.lease.release()
      },
    ),
  ),

  ...often(
    3,
    command('end the transaction', guarded, async ({ model, lock, real, choice }) => {
      const { releasing, token, end } = model.transaction!
      const commit = choice % 2 === 0
      // Nobody was given the lock under it.
      for (const waiter of lock.queue) expect(waiter.served).toBe(false)
      await end(commit)
      model.transaction = null
      if (commit && token !== undefined) lock.lastToken = token
      if (releasing !== undefined) expect(await releasing).toBe(true)
      if (releasing !== undefined || lock.holder === null) await serveNext(lock)
      await compare(model, real)
    }),
  ),
]

function startWaiting(locks: Locks<unknown>, name: string, instance: number): Waiter {
  const abort = new AbortController()
  const acquiring = settled(locks.acquire(name, { signal: abort.signal }))
  const waiter: Waiter = { instance, abort, acquiring, served: false }
  void acquiring.then(({ status }) => {
    waiter.served = status === 'fulfilled'
  })
  return waiter
}

function rises(lock: LockModel, lease: Lease<unknown>): void {
  expect(lease.token).toBeGreaterThan(lock.lastToken)
  lock.lastToken = lease.token
}

function hold(lock: LockModel, instance: number, lease: Lease<unknown>): void {
  rises(lock, lease)
  lock.holder = { lease, instance, instances: new Set([instance]) }
}

/** The lock has become free: whoever came first has it now, and nobody else. */
async function serveNext(lock: LockModel): Promise<void> {
  lock.holder = null
  const next = lock.queue.shift()
  if (next === undefined) return
  const outcome = await next.acquiring
  if (outcome.status === 'rejected') throw outcome.reason
  hold(lock, next.instance, outcome.value)
  for (const { served } of lock.queue) expect(served).toBe(false)
}

async function begin(real: Real, lock: LockModel, body: (tx: unknown) => Promise<void>): Promise<OpenTransaction> {
  const rollback = new Error('rolled back')
  let decide!: (commit: boolean) => void
  const decision = new Promise<boolean>((resolve) => {
    decide = resolve
  })
  let done: Promise<PromiseSettledResult<unknown>> | undefined
  await new Promise<void>((resolve, reject) => {
    done = settled(
      real.desk.transaction(async (tx) => {
        await body(tx)
        resolve()
        if (!(await decision)) throw rollback
      }),
    )
    void done.then((outcome) => {
      if (outcome.status === 'rejected') reject(outcome.reason)
    })
  })
  return {
    lock,
    releasing: undefined,
    async end(commit) {
      decide(commit)
      const outcome = await done!
      expect(outcome.status === 'rejected' ? outcome.reason : null).toBe(commit ? null : rollback)
    },
  }
}

async function compare(model: Model, real: Real): Promise<void> {
  for (const [index, lock] of model.locks.entries()) await compareLock(lock, real.names[index]!, real)
}

async function compareLock(lock: LockModel, name: string, real: Real): Promise<void> {
  const expected =
    lock.holder === null
      ? null
      : { token: lock.holder.lease.token, owner: lock.holder.lease.owner, waiters: lock.queue.length }
  await eventually(async () => {
    const state = await real.instances[0]!.inspect(name)
    expect(state && { token: state.token, owner: state.owner, waiters: state.waiters }).toEqual(expected)
  })
  if (lock.holder !== null) expect(lock.holder.lease.isHeld()).toBe(true)
}
