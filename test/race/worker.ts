import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import {
  createLocks,
  type InstanceOptions,
  type Lease,
  LockError,
  type LockEvent,
  type LockOptions,
} from '../../src/index.ts'
import { type ConnectOptions, connectors } from '../adapters.ts'
import { addUp, type Plan, type Sum } from '../within/add-up.ts'
import { type Contest, type Report, startContest } from './contest.ts'
import { type Bustle, LineUp, type RunningBustle, startBustle, type Turn } from './line.ts'
import { type NestedPlan, takeNested } from './nested.ts'
import { type SubsetsPlan, takeSubsets } from './subsets.ts'

/** What a worker process is started with. */
export interface WorkerSettings {
  readonly connector: keyof typeof connectors
  readonly url: string
  readonly options: InstanceOptions & ConnectOptions
  /** How many milliseconds this process's wall clock is ahead. */
  readonly clockError: number
}

export interface Held {
  /** By which the worker's other commands know the lease. */
  readonly id: number
  readonly token: bigint
  readonly owner: string
}

export interface FirstTick {
  /** `lease.signal.aborted` and `lease.isHeld()` in the very first callback after the pause. */
  readonly aborted: boolean
  readonly isHeld: boolean
  /** The same of the signal of another lease, which was taken before the pause and left alone since, a moment later. */
  readonly earlierSignalAborted: boolean
}

/** Longer than a busy machine lets a process wait, shorter than the pauses of tests. */
const PAUSE_MS = 1000

export interface Increments {
  readonly acknowledged: number
  /** Writes that the guard refused. */
  readonly refused: number
}

interface Request {
  readonly id: number
  readonly command: keyof Commands
  readonly args: unknown[]
}

export type Reply =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: ReplyError }

export interface ReplyError {
  readonly name: string
  readonly message: string
  readonly code: string | undefined
}

const settings = JSON.parse(process.argv[2] ?? '') as WorkerSettings
if (settings.clockError !== 0) misreadWallClock(settings.clockError)
const { poolSize, ...options } = settings.options
const connected = await connectors[settings.connector](
  settings.url as never,
  poolSize === undefined ? {} : { poolSize },
)
const locks = createLocks(connected.adapter, options)

const leases = new Map<number, Lease<unknown>>()
const events: LockEvent[] = []
locks.on((event) => events.push(event))
let isToFinish = false
let contest: Contest | undefined
let bustle: RunningBustle | undefined
const lineUp = new LineUp(locks)
let firstTick: Promise<FirstTick> | undefined

export type Commands = typeof commands
const commands = {
  async acquire(name: string, lockOptions: LockOptions = {}): Promise<Held> {
    return keep(await locks.acquire(name, lockOptions))
  },

  async tryAcquire(name: string, lockOptions: LockOptions = {}): Promise<Held | null> {
    const lease = await locks.tryAcquire(name, lockOptions)
    return lease === null ? null : keep(lease)
  },

  release: (id: number): Promise<boolean> => lease(id).release(),

  async isHeld(id: number): Promise<boolean> {
    return lease(id).isHeld()
  },

  inspect: (name: string) => locks.inspect(name),

  /** The types of the events so far that concern this lock. */
  async eventTypes(name: string): Promise<string[]> {
    return events.filter((event) => 'name' in event && event.name === name).map(({ type }) => type)
  },

  sql: (text: string) => connected.sql(text),

  /** One transaction that writes, under the guard of a lease or without one. */
  async write(text: string, guardedBy?: number): Promise<void> {
    await connected.transaction(async (tx) => {
      if (guardedBy !== undefined) await lease(guardedBy).guard(tx)
      await connected.sql(text, tx)
    })
  },

  /** From now on this process's monotonic clock stands still, as in a virtual machine that is suspended and resumed. */
  async stopClock(): Promise<void> {
    const stoppedAt = performance.now()
    performance.now = () => stoppedAt
  },

  /** Looks, from now on, for the first callback after this process has been stopped and continued. */
  async watchForPause(seen: number, unseen: number): Promise<void> {
    const [seenLease, unseenLease] = [lease(seen), lease(unseen)]
    const earlierSignal = seenLease.signal
    firstTick = afterPause().then(async () => {
      const looked = { aborted: unseenLease.signal.aborted, isHeld: unseenLease.isHeld() }
      // Timers that were due have run by then.
      await setImmediate()
      return { ...looked, earlierSignalAborted: earlierSignal.aborted }
    })
  },

  firstTick: (): Promise<FirstTick> => firstTick!,

  /** Read, add one, write, each time under a lease; at the turn `stopAt` it stops itself after it has read. */
  async increment(name: string, plan: { guarded: boolean; times: number; stopAt?: number }): Promise<Increments> {
    let acknowledged = 0
    let refused = 0
    isToFinish = false
    for (let turn = 0; turn < plan.times && !isToFinish; turn++) {
      const held = await locks.acquire(name, { ttl: '1s', wait: '30s' })
      const [row] = await connected.sql('select value from counter')
      await sleep(5)
      if (turn === plan.stopAt) process.kill(process.pid, 'SIGSTOP')
      try {
        await connected.transaction(async (tx) => {
          if (plan.guarded) await held.guard(tx)
          await connected.sql(`update counter set value = ${Number(row?.value) + 1}`, tx)
        })
        acknowledged++
      } catch (error) {
        if (!(error instanceof LockError) || error.code !== 'LOCK_LOST') throw error
        refused++
      }
      await held.release()
      await sleep(Math.random() * 50)
    }
    return { acknowledged, refused }
  },

  takeNested: (names: readonly string[], plan: NestedPlan) => takeNested(connected, locks, names, plan),

  takeSubsets: (names: readonly string[], plan: SubsetsPlan) => takeSubsets(connected, locks, names, plan),

  async finish(): Promise<void> {
    isToFinish = true
  },

  async startContest(name: string, clients: number): Promise<void> {
    contest = startContest(locks, name, clients)
  },

  contestReport: (): Promise<Report> => contest!.report(),

  stopContest: (): Promise<Report> => contest!.stop(),

  async lineUp(name: string, callers: number): Promise<void> {
    lineUp.join(name, callers)
  },

  turns: async (): Promise<readonly Turn[]> => lineUp.turns,

  endLineUp: (): Promise<readonly Turn[]> => lineUp.end(),

  async startBustle(names: readonly string[], callers: number): Promise<void> {
    bustle = startBustle(locks, names, callers)
  },

  bustleMet: async (): Promise<readonly number[]> => bustle!.met(),

  stopBustle: (): Promise<Bustle> => bustle!.stop(),

  /** Transactions of this process that take locks all at once. */
  addUp: (plan: Plan): Promise<Sum> => addUp({ connected, locks }, plan),

  async close(): Promise<void> {
    await locks.close()
    await connected.close()
  },
}

process.on('message', (request: Request) => void answer(request))
process.on('disconnect', () => process.exit())
process.send?.('ready')

async function answer({ id, command, args }: Request): Promise<void> {
  process.send?.(await reply(id, command, args))
}

async function reply(id: number, command: keyof Commands, args: unknown[]): Promise<Reply> {
  try {
    return { id, value: await (commands[command] as (...args: unknown[]) => Promise<unknown>)(...args) }
  } catch (error) {
    const { name, message, code } = error as Error & { code?: string }
    return { id, error: { name, message, code } }
  }
}

function keep(granted: Lease<unknown>): Held {
  const id = leases.size
  leases.set(id, granted)
  return { id, token: granted.token, owner: granted.owner }
}

function lease(id: number): Lease<unknown> {
  const found = leases.get(id)
  if (found === undefined) throw new Error(`this worker has no lease ${id}`)
  return found
}

/** Resolves in a timer's callback, the first after a gap in time. */
function afterPause(): Promise<void> {
  return new Promise((resolve) => {
    let previous = performance.now()
    const interval = setInterval(() => {
      const now = performance.now()
      const wasPaused = now - previous > PAUSE_MS
      previous = now
      if (!wasPaused) return
      clearInterval(interval)
      resolve()
    }, 5)
  })
}

function misreadWallClock(error: number): void {
  const RightDate = Date
  globalThis.Date = class extends RightDate {
    constructor(...args: [] | [number]) {
      if (args.length === 0) super(RightDate.now() + error)
      else super(...args)
    }

    static override now(): number {
      return RightDate.now() + error
    }
  } as DateConstructor
}
