import { setTimeout as sleep } from 'node:timers/promises'
import { DatabaseError, type Locks, LockTimeoutError } from '../../src/index.ts'
import type { Claim } from './contest.ts'

/** A caller's turn. */
export interface Turn {
  /** Which of the callers of its process, counted in the order of their calls. */
  readonly caller: number
  readonly token: bigint
}

/** Callers of one instance that stand in line for one lock, each of which passes it on as soon as it has it. */
export class LineUp {
  readonly turns: Turn[] = []
  readonly #locks: Locks<unknown>
  #callers = 0
  readonly #served: Promise<void>[] = []

  constructor(locks: Locks<unknown>) {
    this.#locks = locks
  }

  join(name: string, callers: number): void {
    for (let joined = 0; joined < callers; joined++) this.#served.push(this.#turn(name, this.#callers++))
  }

  async end(): Promise<readonly Turn[]> {
    await Promise.all(this.#served)
    return this.turns
  }

  async #turn(name: string, caller: number): Promise<void> {
    const lease = await this.#locks.acquire(name, { wait: '2m' })
    this.turns.push({ caller, token: lease.token })
    await lease.release()
  }
}

export interface Bustle {
  /** By the number of the name. */
  readonly claims: readonly (readonly Claim[])[]
  readonly tokens: readonly bigint[]
  /** The names whose callers were told that the database refuses their statement. On a busy machine it may also be silent for long. */
  readonly failed: readonly number[]
}

export interface RunningBustle {
  /** The numbers of the names that were held or failed, up to now. */
  met(): readonly number[]
  stop(): Promise<Bustle>
}

/** Callers who take and release any of these locks, all at once, until told to stop. */
export function startBustle(locks: Locks<unknown>, names: readonly string[], callers: number): RunningBustle {
  const claims: Claim[][] = names.map(() => [])
  const tokens: bigint[] = []
  const failed = new Set<number>()
  let isOver = false
  const call = async (index: number, waits: boolean) => {
    const name = names[index]!
    const lease = waits ? await locks.acquire(name, { wait: 100 }) : await locks.tryAcquire(name)
    if (lease === null) return
    const from = process.hrtime.bigint()
    await sleep(Math.random() * 2)
    if (lease.isHeld()) claims[index]!.push({ token: lease.token, from, until: process.hrtime.bigint() })
    tokens.push(lease.token)
    await lease.release()
  }
  const caller = async () => {
    while (!isOver) {
      const index = Math.floor(Math.random() * names.length)
      try {
        await call(index, Math.random() < 0.5)
      } catch (error) {
        if (error instanceof DatabaseError) {
          if (error.failure === 'other') failed.add(index)
        } else if (!(error instanceof LockTimeoutError)) throw error
      }
    }
  }
  const running = Promise.all(Array.from({ length: callers }, caller))
  return {
    met: () => [...failed, ...claims.flatMap((each, index) => (each.length > 0 ? [index] : []))],
    async stop() {
      isOver = true
      await running
      return { claims, tokens, failed: [...failed] }
    },
  }
}
