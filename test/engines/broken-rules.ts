import type { LockRow, Step } from '../../src/protocol/lock-row.ts'
import * as lockRow from '../../src/protocol/lock-row.ts'
import type { EnqueueResult } from '../../src/protocol/store.ts'
import type { Rules } from './model.ts'

interface BrokenRule {
  readonly what: string
  readonly rules: Partial<Rules>
}

const withoutQueue = (row: LockRow): LockRow => ({ ...row, queue: [] })

/** lock-row.ts with one mistake each, which a comparison with any engine has to find. */
export const BROKEN_RULES: readonly BrokenRule[] = [
  {
    what: 'acquire does not ask who waits',
    rules: {
      acquire(row, attempt, world) {
        const step = lockRow.acquire(withoutQueue(row), attempt, world)
        return { ...step, row: { ...step.row, queue: row.queue } }
      },
    },
  },
  {
    what: 'acquire does not recognise an attempt that is repeated',
    rules: {
      acquire: (row, attempt, world) => lockRow.acquire(row, { ...attempt, owner: `${attempt.owner} again` }, world),
    },
  },
  {
    what: 'acquire tells of no takeover',
    rules: {
      acquire(row, attempt, world) {
        const { reply, ...step } = lockRow.acquire(row, attempt, world)
        return { ...step, reply: reply.granted ? { ...reply, takeover: false } : reply }
      },
    },
  },
  {
    what: 'enqueue lets waiters join a ticket that is not the last',
    rules: {
      enqueue(row, [ticket, ...others], maxWaiters, world) {
        const { joins } = ticket!
        const last = row.queue.some((each) => each.ticket === joins) ? row.queue.at(-1)!.ticket : joins
        return lockRow.enqueue(row, [{ ...ticket!, joins: last }, ...others], maxWaiters, world)
      },
    },
  },
  {
    what: 'enqueue counts tickets, and not waiters',
    rules: {
      enqueue: (row, tickets, maxWaiters, world) =>
        lockRow.enqueue(row, tickets, row.queue.length < maxWaiters ? Number.POSITIVE_INFINITY : 0, world),
    },
  },
  {
    what: 'enqueue turns several of one lock round',
    rules: {
      enqueue(row, tickets, maxWaiters, world) {
        const step = lockRow.enqueue(row, tickets.toReversed(), maxWaiters, world)
        return { ...step, reply: step.reply.toReversed() }
      },
    },
  },
  {
    what: 'enqueue lets those pass who find no room',
    rules: {
      enqueue(row, tickets, maxWaiters, world) {
        const steps: Step<readonly EnqueueResult[]>[] = []
        for (const ticket of tickets) {
          steps.push(lockRow.enqueue(steps.at(-1)?.row ?? row, [ticket], maxWaiters, world))
        }
        const view = lockRow.view(steps.at(-1)!.row, world)
        const reply = steps.map(({ reply: [each] }) => (each!.outcome === 'queued' ? { ...each!, view } : each!))
        return { ...steps.at(-1)!, reply }
      },
    },
  },
  {
    what: 'withdraw takes all of a ticket',
    rules: {
      withdraw(row, asked, world) {
        const all = asked.map((each) => ({ ...each, count: 1_000_000 }))
        return lockRow.withdraw(row, all, world)
      },
    },
  },
  {
    what: 'withdraw lets the first of several leave alone',
    rules: {
      withdraw(row, asked, world) {
        const some = asked.map((each, index) => (index === 0 ? each : { ...each, count: 0 }))
        return lockRow.withdraw(row, some, world)
      },
    },
  },
  {
    what: 'withdraw does not tell what the ticket was handed',
    rules: {
      withdraw(row, asked, world) {
        const step = lockRow.withdraw(row, asked, world)
        return { ...step, reply: step.reply.map((each) => ({ ...each, grants: [] })) }
      },
    },
  },
  {
    what: 'a hand-off does not pass over the dead',
    rules: {
      promote: (row, world) =>
        lockRow.promote({ ...row, queue: row.queue.map((ticket) => ({ ...ticket, until: world.now + 1 })) }, world),
    },
  },
  {
    what: 'a hand-off that ran out is held against nobody',
    rules: {
      promote: (row, world) =>
        lockRow.promote({ ...row, holders: row.holders.map((holder) => ({ ...holder, handedTo: null })) }, world),
    },
  },
  {
    what: 'release hands over to who came last',
    rules: {
      release: (row, hold, world) => lockRow.release({ ...row, queue: row.queue.toReversed() }, hold, world),
    },
  },
  {
    what: 'release does not ask for the token',
    rules: {
      release: (row, hold, world) =>
        lockRow.release(row, { ...hold, token: row.holders[0]?.token ?? hold.token }, world),
    },
  },
  {
    what: 'releaseIn hands over',
    rules: {
      releaseIn(row, hold, world) {
        const { row: after, grants } = lockRow.release(row, hold, world)
        return { ...lockRow.releaseIn(row, hold, world), row: after, grants }
      },
    },
  },
  {
    what: 'renew shortens',
    rules: {
      renew(row, hold, world) {
        const holders = row.holders.map((holder) => ({
          ...holder,
          expiresAt: Math.min(holder.expiresAt, world.now + 1),
        }))
        return lockRow.renew({ ...row, holders }, hold, world)
      },
    },
  },
  {
    what: 'renew revives what has run out',
    rules: {
      renew(row, hold, world) {
        const holders = row.holders.map((holder) => ({ ...holder, expiresAt: world.now + 1 }))
        return lockRow.renew({ ...row, holders }, hold, world)
      },
    },
  },
  {
    what: 'renew does not confirm a hand-off',
    rules: {
      renew(row, hold, world) {
        const step = lockRow.renew(row, hold, world)
        const holders = step.row.holders.map((holder, at) => ({ ...holder, handedTo: row.holders[at]!.handedTo }))
        return { ...step, row: { ...step.row, holders } }
      },
    },
  },
  {
    what: 'guard does not ask whether the lease has run out',
    rules: {
      guard: (row, hold, world) => lockRow.guard(row, hold, { ...world, now: 0 }),
    },
  },
  {
    what: 'the lightest of those who wait passes the others',
    rules: {
      release(row, hold, world) {
        const queue = row.queue.toSorted((one, other) => (one.weight ?? 0) - (other.weight ?? 0))
        return lockRow.release({ ...row, queue }, hold, world)
      },
    },
  },
  {
    what: 'permits are not counted',
    rules: {
      acquire(row, attempt, world) {
        const step = lockRow.acquire(row.permits === null ? row : { ...row, permits: 1_000_000 }, attempt, world)
        return { ...step, row: { ...step.row, permits: row.permits } }
      },
    },
  },
  {
    what: 'readers keep no writer out',
    rules: {
      acquire: (row, attempt, world) =>
        attempt.weight === null
          ? lockRow.acquire({ ...row, holders: row.holders.filter(({ slot }) => slot === undefined) }, attempt, world)
          : lockRow.acquire(row, attempt, world),
    },
  },
  {
    what: 'downgrade lets nobody in',
    rules: {
      downgrade(row, hold, world) {
        const { row: after, reply } = lockRow.downgrade(withoutQueue(row), hold, world)
        return { row: { ...after, queue: row.queue }, reply, grants: [] }
      },
    },
  },
  {
    what: 'adoptIn does not ask whether the hold has run out',
    rules: {
      adoptIn: (row, hold, world) => lockRow.adoptIn(row, hold, { ...world, now: 0 }),
    },
  },
  {
    what: 'resize leaves those in the queue who want more than there is',
    rules: {
      resize(row, permits, world) {
        const { reply } = lockRow.resize(row, permits, world)
        const { row: after, grants } = lockRow.promote({ ...row, permits }, world)
        return row.permits === null ? { row, reply, grants: [] } : { row: after, reply, grants }
      },
    },
  },
  {
    what: 'forceRelease of one ends all',
    rules: {
      forceRelease(row, only, world) {
        const step = lockRow.forceRelease(row, only, world)
        return step.reply === 'released' ? { ...step, row: { ...step.row, holders: [] } } : step
      },
    },
  },
  {
    what: 'forceRelease does not raise the token',
    rules: {
      forceRelease(row, only, world) {
        const step = lockRow.forceRelease(row, only, world)
        return { ...step, row: { ...step.row, token: row.token } }
      },
    },
  },
  {
    what: 'purge deletes what is awaited',
    rules: {
      isPurgeable: (row, idleMs, world) => lockRow.isPurgeable(withoutQueue(row), idleMs, world),
    },
  },
  {
    what: 'purge deletes a row whose token is ahead of the clock',
    rules: {
      isPurgeable: (row, idleMs, world) => lockRow.isPurgeable({ ...row, token: 0n }, idleMs, world),
    },
  },
]
