import { newOwner } from '../../protocol/ids.ts'
import {
  type Attempt,
  type AttemptResult,
  type DowngradeResult,
  type EnqueueResult,
  type Gate,
  type GuardResult,
  type Hold,
  isShared,
  type NewTicket,
  type Promotion,
  type Release,
  type ReleaseResult,
  type Renewal,
  type ResizeResult,
  type Store,
  type Withdrawal,
  type WithdrawalResult,
} from '../../protocol/store.ts'
import { Batches, Load } from './batches.ts'
import { withRetries } from './retries.ts'

/**
 * An attempt that gets its owner id when it is sent, and keeps it: one that was granted although its reply was lost is
 * recognised when it is repeated, and leaves no ghost. Those of several names that are sent together share one, which saves the
 * database a list of them; with its name, a hold's owner is still nobody else's.
 */
export interface Unsent extends Omit<Attempt, 'owner'> {
  owner: string | undefined
}

type Renewed = Hold & { readonly ttlMs: number }

/**
 * The store as one process uses it: a call is about one lock, and calls that come at the same time go in one statement;
 * statements that had no effect are repeated. What is asked for in the caller's transactions goes to `store` as it is.
 */
export interface ProcessStore<Tx> {
  readonly store: Store<Tx>
  acquire(attempt: Unsent): Promise<AttemptResult>
  /** Beside an open transaction. */
  acquireBeside(attempt: Unsent): Promise<AttemptResult>
  release(hold: Release): Promise<ReleaseResult>
  renew(hold: Renewed): Promise<Renewal>
  /** All of one lock. */
  enqueue(tickets: readonly [NewTicket, ...NewTicket[]]): Promise<readonly EnqueueResult[]>
  /** All of one lock. */
  withdraw(withdrawals: readonly [Withdrawal, ...Withdrawal[]]): Promise<readonly WithdrawalResult[]>
  promote(name: string): Promise<Promotion>
  downgrade(hold: Hold): Promise<DowngradeResult>
  resize(name: string, permits: number): Promise<ResizeResult>
  closeGate(gate: Gate): Promise<void>
  openGate(gate: Gate): Promise<void>
  /** What a holder of the lock has left, as JSON; null if that is nothing. */
  checkpoint(name: string): Promise<string | null>
  /** Synchronous if the driver is. */
  guard(tx: Tx, hold: Renewed): GuardResult | Promise<GuardResult>
}

export interface ProcessSettings {
  readonly statementTimeoutMs: number
  /** Our id, by which hand-offs are notified to us. */
  readonly process: string
  readonly maxWaiters: number
}

export function processStore<Tx>(
  engine: Store<Tx>,
  { statementTimeoutMs, process, maxWaiters }: ProcessSettings,
): ProcessStore<Tx> {
  const store = withRetries(engine, statementTimeoutMs)
  // Callers who acquire and who release take turns.
  const load = new Load()
  const acquires = new Batches<Unsent, AttemptResult>((attempts) => store.acquire(sentTogether(attempts)), {
    load,
    isShared: isSharedAttempt,
  })
  const acquiresBeside = new Batches<Unsent, AttemptResult>((attempts) => store.acquire(sentTogether(attempts), true), {
    isShared: isSharedAttempt,
  })
  const releases = new Batches<Release, ReleaseResult>((holds) => store.release(holds, process), {
    load,
    isShared,
  })
  // The heartbeat batches what falls due by itself.
  const renewals = new Batches<Renewed, Renewal>((holds) => store.renew(holds), { isShared })
  const enqueues = new Batches<AllOf<NewTicket>, readonly EnqueueResult[]>((groups) =>
    together(groups, (tickets) => store.enqueue(tickets, maxWaiters)),
  )
  const withdrawals = new Batches<AllOf<Withdrawal>, readonly WithdrawalResult[]>((groups) =>
    together(groups, (asked) => store.withdraw(asked)),
  )
  const promotions = new Batches<{ readonly name: string }, Promotion>((asked) =>
    store.promote(
      asked.map(({ name }) => name),
      process,
    ),
  )
  const checkpoints = new Batches<{ readonly name: string }, string | null>(
    async (asked) => {
      const names = [...new Set(asked.map(({ name }) => name))]
      const { marks } = await store.readMarks('checkpoint', names, true)
      const values = new Map(marks.map(({ name, value }) => [name, value]))
      return asked.map(({ name }) => values.get(name) ?? null)
    },
    { isShared: () => true },
  )
  const gatesToClose = new Batches<Gate, undefined>((gates) => all(gates, store.closeGates))
  const gatesToOpen = new Batches<Gate, undefined>((gates) => all(gates, store.openGates))
  /** Guards of several leases in one transaction, asked for at once, share a statement. */
  const guards = new WeakMap<object, Batches<Renewed, GuardResult>>()

  return {
    store,
    acquire: (attempt) => acquires.add(attempt),
    acquireBeside: (attempt) => acquiresBeside.add(attempt),
    release: (hold) => releases.add(hold),
    renew: (hold) => renewals.add(hold),
    enqueue: (tickets) => enqueues.add({ name: tickets[0].name, items: tickets }),
    withdraw: (asked) => withdrawals.add({ name: asked[0].name, items: asked }),
    promote: (name) => promotions.add({ name }),
    downgrade: (hold) => store.downgrade(hold, process),
    resize: (name, permits) => store.resize(name, permits, process),
    checkpoint: (name) => checkpoints.add({ name }),
    closeGate: (gate) => gatesToClose.add(gate),
    openGate: (gate) => gatesToOpen.add(gate),
    guard(tx, hold) {
      if (store.synchronous || tx === null || typeof tx !== 'object') {
        const results = store.guard(tx, [hold])
        return results instanceof Promise ? results.then(([result]) => result!) : results[0]!
      }
      let batches = guards.get(tx)
      if (batches === undefined) {
        // A transaction in which a statement failed is over: nothing is sent there again. And it has one connection.
        batches = new Batches<Renewed, GuardResult>(async (holds) => store.guard(tx, holds), {
          split: false,
          atOnce: 1,
          isShared,
        })
        guards.set(tx, batches)
      }
      return batches.add(hold)
    },
  }
}

/** Gives those that are sent for the first time their owner id; of one name each gets its own. */
function sentTogether(attempts: readonly Unsent[]): readonly Attempt[] {
  const owner = newOwner()
  const names = new Set<string>()
  for (const attempt of attempts) {
    attempt.owner ??= names.has(attempt.name) ? newOwner() : owner
    names.add(attempt.name)
  }
  return attempts as readonly Attempt[]
}

function isSharedAttempt({ weight }: Unsent): boolean {
  return weight !== null
}

/** What goes together: in two statements, the order of tickets would be lost. */
interface AllOf<Item> {
  readonly name: string
  readonly items: readonly Item[]
}

async function together<Item, Answer>(
  groups: readonly AllOf<Item>[],
  send: (items: readonly Item[]) => Promise<readonly Answer[]>,
): Promise<(readonly Answer[])[]> {
  const answers = (await send(groups.flatMap(({ items }) => items))).values()
  return groups.map(({ items }) => items.map(() => answers.next().value as Answer))
}

/** In one order, so that no two of these statements wait for each other in a circle. */
async function all(
  gates: readonly Gate[],
  send: ((gates: readonly Gate[]) => Promise<void>) | undefined,
): Promise<undefined[]> {
  await send?.([...gates].sort((a, b) => (a.name < b.name ? -1 : 1)))
  return gates.map(() => undefined)
}
