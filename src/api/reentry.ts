import { AsyncLocalStorage } from 'node:async_hooks'
import { DeadlockError, LockLostError } from '../base/errors.ts'
import type { HeldLease, Mode } from './options.ts'

/** What a run has to know of its lease. */
export interface RunLease extends HeldLease {
  readonly signal: AbortSignal
  readonly mode: Mode
  /** How many bodies of run are under way under it. */
  bodies: number
}

/**
 * What the runs around a piece of code hold, of all instances, the innermost last. One storage for the process: on Node 20 and
 * 22 each costs something with every promise.
 */
const around = new AsyncLocalStorage<readonly RunHold<RunLease>[]>()

/** A hold that run has taken. Bodies that re-enter it share it, and the last of them to end frees it. */
export class RunHold<L extends RunLease> {
  readonly reentry: object
  readonly name: string
  #lease: L | undefined

  constructor(reentry: object, lease: L) {
    this.reentry = reentry
    this.name = lease.name
    this.#lease = lease
    lease.bodies = 1
  }

  /**
   * Undefined once all bodies have ended. What a body has made keeps its context: a socket of a pool does so for as long as it
   * lives, and would keep the lease as well.
   */
  get lease(): L | undefined {
    return this.#lease
  }

  /** Calls `body` where it is known that this is held. Always later, as if the lock had to be asked for. */
  call<T>(body: (lease: L) => T): T | Promise<Awaited<T>> {
    const lease = this.#lease!
    const holds = around.getStore() ?? []
    if (holds.includes(this)) return Promise.resolve(lease).then(body) as Promise<Awaited<T>>
    // Those that are over would go on for ever where each run starts the next one, as by a timer.
    const standing = holds.filter((each) => each.lease !== undefined)
    return around.run([...standing, this], body, lease)
  }

  /** A body has ended. True if it was the last one, who gives the lock back. */
  leave(): boolean {
    this.#lease!.bodies--
    if (this.#lease!.bodies > 0) return false
    this.#lease = undefined
    return true
  }
}

const NOTHING: readonly RunLease[] = []

/** What the runs around the code that asks hold, of all instances. */
export function heldAround(): readonly RunLease[] {
  const holds = around.getStore()
  return holds === undefined ? NOTHING : holds.flatMap(({ lease }) => lease ?? [])
}

/** What the runs of one instance hold around the code that asks. The same name is another lock in another instance. */
export class Reentry<L extends RunLease> {
  readonly #isOurs: (lease: HeldLease) => boolean

  constructor(isOurs: (lease: HeldLease) => boolean) {
    this.#isOurs = isOurs
  }

  begin(lease: L): RunHold<L> {
    return new RunHold(this, lease)
  }

  /**
   * The hold of the run around the caller, for one body more; undefined if there is none, if a body has released it, or if it
   * is shared with others and not enough.
   * One that was lost is not replaced: the body around the caller goes on with a token that may have been overtaken.
   */
  enter(name: string, mode: Mode): RunHold<L> | undefined {
    const hold = this.#find(name, (lease) => lease.isHeld() || lease.signal.aborted)
    const lease = hold?.lease
    if (hold === undefined || lease === undefined) return undefined
    if (!lease.isHeld()) {
      throw new LockLostError(
        name,
        'the run() around this call has lost it, so it cannot be re-entered. Let that run end',
        {
          cause: lease.signal.reason,
        },
      )
    }
    if (mode === 'exclusive' && lease.mode === 'shared') return undefined
    lease.bodies++
    return hold
  }

  /** Who waits for what it holds itself waits in vain. */
  assertMayWait(name: string, holding: readonly HeldLease[], mode: Mode): void {
    const around = this.#find(name, (lease) => lease.isHeld())?.lease
    if (around !== undefined) {
      const isUpgrade = mode === 'exclusive' && around.mode === 'shared'
      throw new DeadlockError(
        name,
        isUpgrade
          ? 'the run() around this call shares it, and nobody can have it alone meanwhile. Release it first, or take it exclusively from the start'
          : around.mode === 'shared'
            ? 'the run() around this call shares it already, and would have to wait with it for a writer that comes in between. Use the lease that its body was given, or share that one by run(name, { reenter: true }, ...)'
            : 'the run() around this call holds it. Use the lease that its body was given, or share it by run(name, { reenter: true }, ...)',
      )
    }
    if (holding.some((lease) => lease.name === name && this.#isOurs(lease) && lease.isHeld())) {
      throw new DeadlockError(name, 'a lease in `holding` has it. Use that lease, or release it before')
    }
  }

  #find(name: string, isMeant: (lease: RunLease) => boolean): RunHold<L> | undefined {
    const found = around
      .getStore()
      ?.findLast(
        ({ name: held, reentry, lease }) => held === name && reentry === this && lease !== undefined && isMeant(lease),
      )
    // What has this for its `reentry` was made by `begin`.
    return found as RunHold<L> | undefined
  }
}

/** For listeners: no body waits for them, so they are no part of the run in which they are called. */
export function outsideRuns<Argument, Result>(listener: (argument: Argument) => Result, argument: Argument): Result {
  return around.getStore() === undefined ? listener(argument) : around.exit(listener, argument)
}
