import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import { startProxy } from '../test/tcp-proxy.ts'
import { type Contender, type ContenderName, type Held, open } from './contenders.ts'
import { now } from './harness.ts'
import type { Address, Target } from './servers.ts'
import { recordStatements, type Sent } from './statements.ts'

/** Times of `now`, which processes share. */
export interface Hold {
  readonly grantedAt: number
  /** When its release was called. */
  readonly releasedAt: number
}

export interface Waited {
  readonly holds: Hold[]
  /** When statements were sent. */
  readonly sentAt: number[]
}

export interface MemoryUse {
  readonly perLease: number
  readonly perWaiter: number
}

interface Request {
  readonly id: number
  readonly command: keyof Commands
  readonly values: unknown[]
}

export type Reply = { readonly id: number; readonly value: unknown } | { readonly id: number; readonly error: string }

/** Waiters have asked by then, and wait. */
const ARRIVAL_MS = 2000

/** Several contenders can be open at once, and take turns. */
const opened = new Map<ContenderName, Contender>()
let held: Held[] = []
let waits: Promise<void>[] = []
let holds: Hold[] = []
let stopRecording: (() => Sent[]) | undefined

export type Commands = typeof commands
const commands = {
  async open(name: ContenderName, target: Target, connections: number): Promise<void> {
    opened.set(name, await open(name, target, connections))
  },

  async close(name: ContenderName): Promise<void> {
    await contender(name).close()
    opened.delete(name)
  },

  /** Takes locks and keeps them. */
  async hold(name: ContenderName, locks: readonly string[]): Promise<void> {
    held = await Promise.all(locks.map((lock) => contender(name).acquire(lock)))
  },

  /** Releases them; answers when it set out to. */
  async letGo(): Promise<number> {
    const releasedAt = now()
    await Promise.all(held.map((lock) => lock.release()))
    held = []
    return releasedAt
  },

  async startRecording(): Promise<void> {
    stopRecording = recordStatements()
  },

  /** Starts to wait for locks, each of which is released a turn of the event loop after it was granted. */
  async wait(name: ContenderName, locks: readonly string[]): Promise<void> {
    waits.push(...locks.map((lock) => waitFor(contender(name), lock)))
    // Whoever asks for the outcome gets the error; until then it is nobody's.
    for (const wait of waits) wait.catch(() => undefined)
  },

  /** How all that waited fared, once they have. */
  async waited(): Promise<Waited> {
    await Promise.all(waits)
    const outcome = { holds, sentAt: (stopRecording?.() ?? []).map(({ sentAt }) => sentAt) }
    waits = []
    holds = []
    return outcome
  },

  /** Acquires and releases each of the locks in a loop, all at once, for so many milliseconds. */
  async cyclesPerSecond(name: ContenderName, locks: readonly string[], milliseconds: number): Promise<number> {
    const { acquire } = contender(name)
    const startedAt = now()
    const end = startedAt + milliseconds
    let cycles = 0
    const repeat = async (lock: string) => {
      do {
        await (await acquire(lock)).release()
        cycles++
      } while (now() < end)
    }
    await Promise.all(locks.map(repeat))
    return (cycles / (now() - startedAt)) * 1000
  },

  /** How many statements this process sends in so many milliseconds. */
  async statementsDuring(milliseconds: number): Promise<number> {
    const stop = recordStatements()
    await sleep(milliseconds)
    return stop().length
  },

  /** Bytes of this process's memory. Its leases and waiters stay, and end with it. */
  async memory(name: ContenderName, leases: number, waiters: number): Promise<MemoryUse> {
    const { acquire } = contender(name)
    const empty = await usedBytes()
    for (let lease = 0; lease < leases; lease++) held.push(await acquire(`bench:lease:${lease}`))
    const withLeases = await usedBytes()
    const waiting = Array.from({ length: waiters }, () => acquire('bench:lease:0'))
    await sleep(ARRIVAL_MS)
    const withWaiters = await usedBytes()
    return { perLease: (withLeases - empty) / leases, perWaiter: (withWaiters - withLeases) / waiting.length }
  },

  /** A proxy that makes everything late by so many milliseconds in each direction; answers its port. */
  async delay(server: Address, milliseconds: number): Promise<number> {
    const proxy = await startProxy(server)
    proxy.delay({ toServer: milliseconds, toClient: milliseconds })
    return proxy.port
  },
}

process.on('message', (request: Request) => void answer(request))
process.on('disconnect', () => process.exit())
process.send?.('ready')

async function answer({ id, command, values }: Request): Promise<void> {
  try {
    const value = await (commands[command] as (...values: unknown[]) => Promise<unknown>)(...values)
    process.send?.({ id, value } satisfies Reply)
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
    process.send?.({ id, error: `in a worker, ${command}: ${text}` } satisfies Reply)
  }
}

function contender(name: ContenderName): Contender {
  const found = opened.get(name)
  if (found === undefined) throw new Error(`${name} is not open in this process`)
  return found
}

async function waitFor({ acquire }: Contender, lock: string): Promise<void> {
  const held = await acquire(lock)
  const grantedAt = now()
  // Long enough for others to be seen if they held it, too.
  await setImmediate()
  holds.push({ grantedAt, releasedAt: now() })
  await held.release()
}

async function usedBytes(): Promise<number> {
  const { gc } = globalThis as { gc?: () => void }
  if (gc === undefined) throw new Error('this process was started without --expose-gc')
  for (let times = 0; times < 3; times++) {
    gc()
    await setImmediate()
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}
