import { describe, expect, it } from 'vitest'
import { checkers, controlErrors, type Evidence, type Fault, losses, overtaken, takeovers } from './checkers.ts'
import { EventReader, emptyHistory, type Hold, type OperationId, type Wait, type Write } from './history.ts'

const TTL_MS = 1000
const LOCK = 'guarded:1'

/** Three callers of two workers, one after the other: each is granted the lock, writes once and releases. */
function honest(): Evidence {
  const turns = [
    { worker: 1, at: 100, token: 10 },
    { worker: 2, at: 200, token: 11 },
    { worker: 1, at: 300, token: 15 },
  ]
  return {
    ttlMs: TTL_MS,
    waitMs: 5000,
    graceMs: 1000,
    mostOvertakes: 0,
    hasOneWriter: false,
    seesTheDead: true,
    isGuarded: (lock) => lock.startsWith('guarded'),
    roomOf: () => Number.POSITIVE_INFINITY,
    waits: turns.map(({ worker, at }, index) => wait(index, { worker, invokedAt: at - 10, endedAt: at })),
    holds: turns.map(({ worker, at, token }, index) => hold(index, { worker, token, grantedAt: at })),
    writes: turns.map(({ worker, at, token }, index) => write(index, { worker, token, invokedAt: at + 10 })),
    entries: turns.map(({ token }, index) => ({ ...writtenBy(index, token), seq: index + 1 })),
    reads: [],
    uses: [],
    counters: new Map([[LOCK, 3]]),
    register: [],
    faults: [],
    gaps: [],
    departures: [],
    errors: new Map(),
    lastSeen: new Map(),
    startedAt: 0,
    endedAt: 10_000,
  }
}

const acquireId = (index: number): OperationId => `1.${index}`
const writeId = (index: number): OperationId => `2.${index}`
const ownerOf = (index: number) => `owner ${index}`

function wait(index: number, rest: Partial<Wait>): Wait {
  return {
    operation: acquireId(index),
    worker: 1,
    lock: LOCK,
    mode: 'lease',
    weight: null,
    invokedAt: 0,
    endedAt: 0,
    outcome: 'ok',
    ...rest,
  }
}

function hold(index: number, rest: Partial<Hold> & { grantedAt: number }): Hold {
  return {
    operation: acquireId(index),
    worker: 1,
    lock: LOCK,
    mode: 'lease',
    weight: null,
    token: 1,
    owner: ownerOf(index),
    requestedAt: rest.grantedAt - 10,
    until: rest.grantedAt + 950,
    releasedAt: rest.grantedAt + 50,
    lostAt: null,
    sharedAt: null,
    ...rest,
  }
}

function writtenBy(index: number, token: number) {
  return { operation: writeId(index), lock: LOCK, token, owner: ownerOf(index), value: index + 1 }
}

function write(index: number, rest: Partial<Write> & { token: number; invokedAt: number }): Write {
  const ended = { endedAt: rest.invokedAt + 10, outcome: 'ok' as const, error: undefined }
  const begun = { action: 'write' as const, weight: null, worker: 1, stay: undefined }
  return { ...begun, ...writtenBy(index, rest.token), ...ended, ...rest }
}

function fault(rest: Partial<Fault>): Fault {
  return {
    kind: 'some fault',
    scope: 'worker',
    worker: null,
    from: 0,
    until: 0,
    fired: true,
    kills: false,
    stops: false,
    setsClock: false,
    ...rest,
  }
}

const killed = (worker: number, at: number) => fault({ worker, from: at, until: at + 500, kills: true })

/** An honest history with one item of a list changed. */
function changed<Key extends 'waits' | 'holds' | 'writes' | 'entries'>(
  key: Key,
  index: number,
  change: Partial<Evidence[Key][number]>,
): Evidence {
  const evidence = honest()
  const items = evidence[key].map((item, each) => (each === index ? { ...item, ...change } : item))
  return { ...evidence, [key]: items }
}

it.each(Object.entries(checkers))('%s finds nothing wrong with an honest history', (_, check) => {
  expect(check(honest())).toEqual([])
})

describe('acknowledgedWritesArePresentOnce', () => {
  const check = checkers.acknowledgedWritesArePresentOnce

  it('finds an acknowledged write that is missing', () => {
    const { entries, ...rest } = honest()
    expect(check({ ...rest, entries: entries.slice(0, 2) })).toEqual([
      '2.2 on guarded:1 was acknowledged, but is missing',
    ])
  })

  it('finds a failed write that was committed', () => {
    expect(check(changed('writes', 1, { outcome: 'fail', error: '40001' }))).toEqual([
      '2.1 on guarded:1 failed (40001), but was committed',
    ])
  })

  it('finds a write that was committed twice', () => {
    const { entries, ...rest } = honest()
    expect(check({ ...rest, entries: [...entries, { ...entries[2]!, seq: 4 }] })).toEqual(['2.2 was committed twice'])
  })

  it('finds a write that nobody asked for', () => {
    const { writes, ...rest } = honest()
    expect(check({ ...rest, writes: writes.slice(1) })).toEqual(['2.0 was committed, but never invoked'])
  })

  it('accepts a write of unknown fate, present or missing', () => {
    const present = changed('writes', 2, { outcome: 'info' })
    expect(check(present)).toEqual([])
    expect(check({ ...present, entries: present.entries.slice(0, 2) })).toEqual([])
  })
})

describe('valuesHaveNoGapAndNoDuplicate', () => {
  const check = checkers.valuesHaveNoGapAndNoDuplicate

  it.each([
    ['a lost update, of which two writes made the same value', 1],
    ['a gap', 4],
  ])('finds %s', (_, value) => {
    expect(check(changed('entries', 1, { value }))).toContain(`2.1 wrote ${value} to guarded:1, where 2 was due`)
  })

  it('finds a counter that a stale write has set back', () => {
    expect(check({ ...honest(), counters: new Map([[LOCK, 2]]) })).toEqual([
      'the counter of guarded:1 shows 2, its last entry 3',
    ])
  })

  it('does not look at the negative controls', () => {
    const evidence = changed('entries', 1, { value: 1 })
    expect(check({ ...evidence, isGuarded: () => false })).toEqual([])
  })
})

describe('tokensAreInCommitOrder', () => {
  const check = checkers.tokensAreInCommitOrder

  it('finds a stale write that was committed after its successor', () => {
    expect(check(changed('entries', 2, { token: 9 }))).toEqual(['2.2 committed token 9 on guarded:1 after 11'])
  })

  it('finds a guarded write without a token', () => {
    expect(check(changed('entries', 0, { token: null }))).toEqual(['2.0 was committed on guarded:1 without a token'])
  })
})

describe('tokensHaveOneOwner', () => {
  const check = checkers.tokensHaveOneOwner

  it('finds a token that was granted twice', () => {
    expect(check(changed('holds', 1, { token: 10 }))).toContain(
      '1.1 has token 10 of guarded:1 as owner 1, which owner 0 has',
    )
  })

  it('finds a token that another owner has written with', () => {
    expect(check(changed('entries', 2, { token: 11 }))).toEqual([
      '2.2 has token 11 of guarded:1 as owner 2, which owner 1 has',
    ])
  })

  it('accepts the token of a transaction that was rolled back, and so is reissued', () => {
    const evidence = changed('writes', 0, { outcome: 'fail' })
    const [first, ...others] = evidence.holds
    expect(
      check({ ...evidence, entries: [], holds: [{ ...first!, mode: 'transaction', token: 11 }, ...others] }),
    ).toEqual([])
  })
})

describe('tokensRiseWithGrants', () => {
  const check = checkers.tokensRiseWithGrants

  it.each([
    ['falls', 9],
    ['repeats', 10],
  ])('finds a token that %s', (_, token) => {
    expect(check(changed('holds', 1, { token }))).toEqual([
      `1.1 got token ${token} of guarded:1, though 10 had been granted`,
    ])
  })

  it('accepts any order of grants that were asked for at the same time', () => {
    expect(check(changed('holds', 1, { token: 9, requestedAt: 90 }))).toEqual([])
  })
})

describe('beliefsDoNotOverlap', () => {
  const check = checkers.beliefsDoNotOverlap

  it('finds two callers who trust in holding one lock', () => {
    expect(check(changed('holds', 0, { releasedAt: 230 }))).toEqual([
      '1.0 and 1.1 both trusted in holding guarded:1 for 30.0 ms',
    ])
  })

  it('finds a belief that outlasts several others', () => {
    expect(check(changed('holds', 0, { releasedAt: null }))).toHaveLength(2)
  })

  it.each([
    ['whose trust had ended by itself', { until: 190 }],
    ['whose signal had aborted', { lostAt: 190 }],
  ])('accepts a holder that was replaced without a release, %s', (_, change) => {
    expect(check(changed('holds', 0, { releasedAt: null, ...change }))).toEqual([])
  })

  it('does not judge leases while the clock of the server is set', () => {
    const faults = [fault({ from: 150, until: 160, setsClock: true })]
    expect(check({ ...changed('holds', 0, { releasedAt: 230 }), faults })).toEqual([])
  })
})

describe('lossesAreSignalledInTime', () => {
  const check = checkers.lossesAreSignalledInTime
  const replaced = { releasedAt: null, until: 180 }

  it('accepts a signal before the takeover', () => {
    const evidence = changed('holds', 0, { ...replaced, lostAt: 181 })
    expect(check(evidence)).toEqual([])
    expect(losses(evidence)).toHaveLength(1)
  })

  it('finds a signal after the takeover', () => {
    expect(check(changed('holds', 0, { ...replaced, lostAt: 205 }))).toEqual([
      '1.0 was told 5.0 ms too late that it had lost guarded:1',
    ])
  })

  it('finds a holder that was never told', () => {
    expect(check(changed('holds', 0, replaced))).toEqual(['1.0 was never told that it had lost guarded:1'])
  })

  it('finds a signal that is late although nobody took over', () => {
    const late = changed('holds', 2, { releasedAt: null, until: 1000, lostAt: 1400 })
    expect(check(late)).toEqual(['1.2 was told 150.0 ms too late that it had lost guarded:1'])
  })

  it('accepts a signal by the first tick after a standstill, and none later', () => {
    const evidence = changed('holds', 0, { ...replaced, lostAt: 400 })
    expect(check({ ...evidence, gaps: [{ worker: 1, from: 150, until: 400 }] })).toEqual([])
    expect(check({ ...evidence, gaps: [{ worker: 1, from: 150, until: 399 }] })).toHaveLength(1)
    expect(check({ ...evidence, gaps: [{ worker: 2, from: 150, until: 400 }] })).toHaveLength(1)
  })

  it('expects nothing of the dead', () => {
    expect(check({ ...changed('holds', 0, replaced), faults: [killed(1, 170)] })).toEqual([])
  })

  it('expects nothing of those who were killed and had written nothing since it was due', () => {
    const evidence = { ...changed('holds', 0, replaced), faults: [killed(1, 400)] }
    expect(check({ ...evidence, lastSeen: new Map([[1, 190]]) })).toEqual([])
    expect(check({ ...evidence, lastSeen: new Map([[1, 390]]) })).toHaveLength(1)
  })

  it('expects nothing of those who never ran again after they had been stopped', () => {
    const stopped = fault({ worker: 1, from: 150, until: 400, stops: true })
    const evidence = changed('holds', 0, replaced)
    expect(check({ ...evidence, faults: [stopped, killed(1, 401)] })).toEqual([])
    const gaps = [{ worker: 1, from: 150, until: 400 }]
    expect(check({ ...evidence, gaps, faults: [stopped, killed(1, 401)] })).toHaveLength(1)
  })
})

describe('takeoversAreInTime', () => {
  const check = checkers.takeoversAreInTime

  /** Worker 1 dies at 120, while worker 2 waits, and is granted the lock at `grantedAt`. */
  function afterDeath(grantedAt: number): Evidence {
    const evidence = honest()
    return {
      ...evidence,
      holds: [hold(0, { token: 10, grantedAt: 100, releasedAt: null }), hold(1, { worker: 2, token: 11, grantedAt })],
      waits: [wait(0, { invokedAt: 90, endedAt: 100 }), wait(1, { worker: 2, invokedAt: 95, endedAt: grantedAt })],
      faults: [killed(1, 120)],
    }
  }

  it('accepts one within the ttl and a little more', () => {
    expect(check(afterDeath(1370))).toEqual([])
    expect(takeovers(afterDeath(1370))).toEqual([{ lock: LOCK, milliseconds: 1250, most: 1250 }])
  })

  it('does not wait for the dead', () => {
    const evidence = afterDeath(1371)
    const [first, second] = evidence.waits
    const late = wait(2, { worker: 3, invokedAt: 1360, endedAt: 1371 })
    const waits = [first!, { ...second!, endedAt: null }, late]
    expect(
      check({
        ...evidence,
        waits,
        faults: [...evidence.faults, fault({ worker: 2, from: 105, until: 110, kills: true })],
      }),
    ).toEqual([])
  })

  it('does not count who waits for a connection, or gives up before the lock can be had', () => {
    const evidence = afterDeath(3000)
    const waiting = evidence.waits[1]!
    const comesLater = wait(2, { worker: 3, invokedAt: 2990, endedAt: 3000 })
    const withWaiter = (waiter: Wait) => check({ ...evidence, waits: [evidence.waits[0]!, waiter, comesLater] })
    expect(withWaiter({ ...waiting, mode: 'lease over narrow pool' })).toEqual([])
    expect(withWaiter({ ...waiting, mode: 'transaction', endedAt: 1370, outcome: 'fail' })).toEqual([])
    expect(withWaiter({ ...waiting, mode: 'transaction', endedAt: 1371, outcome: 'fail' })).toHaveLength(1)
    expect(withWaiter({ ...waiting, mode: 'transaction' })).toHaveLength(1)
  })

  it('allows for a hand-off to each process that was first and cannot be seen to be dead', () => {
    const afterDeathOfWaiters = (grantedAt: number, seesTheDead: boolean): Evidence => {
      const evidence = afterDeath(grantedAt)
      const ofTheHolder = [91, 92].map((invokedAt) => wait(2, { invokedAt, endedAt: null }))
      const after = wait(3, { worker: 3, invokedAt: 500, endedAt: null })
      const waits = [...evidence.waits, ...ofTheHolder, after]
      return { ...evidence, seesTheDead, waits, faults: [...evidence.faults, killed(3, 600)] }
    }
    expect(check(afterDeathOfWaiters(2370, false))).toEqual([])
    expect(check(afterDeathOfWaiters(2371, false))).toEqual([
      "guarded:1 was free 2251 ms after its holder's death, not 2250",
    ])
    expect(check(afterDeathOfWaiters(1371, true))).toHaveLength(1)
  })

  it('finds one that took longer', () => {
    expect(check(afterDeath(1371))).toEqual(["guarded:1 was free 1251 ms after its holder's death, not 1250"])
  })

  it('does not judge what another fault has disturbed', () => {
    const evidence = afterDeath(3000)
    expect(check({ ...evidence, faults: [...evidence.faults, fault({ from: 200, until: 300 })] })).toEqual([])
  })
})

describe('nobodyIsOvertakenOften', () => {
  const check = checkers.nobodyIsOvertakenOften

  /** The caller of worker 2 has waited since 0, and the others have come long after. */
  const overtaking = (): Evidence => {
    const evidence = honest()
    const waits = evidence.waits.map((each, index) => ({ ...each, invokedAt: index === 1 ? 0 : 290 }))
    const holds = [
      hold(0, { grantedAt: 300, token: 10, requestedAt: 290 }),
      hold(2, { grantedAt: 400, token: 11, requestedAt: 290 }),
    ]
    return {
      ...evidence,
      holds,
      waits: waits.map((each, index) => (index === 1 ? { ...each, endedAt: 5000, outcome: 'fail' } : each)),
    }
  }

  it('finds a living caller that others, who came later, have overtaken', () => {
    expect(check(overtaking())).toEqual(['1.1 waited for guarded:1 while 2 that came later were served'])
    expect(overtaken(overtaking())).toMatchObject([{ by: 2 }])
  })

  it('allows as many as it is told to', () => {
    expect(check({ ...overtaking(), mostOvertakes: 2 })).toEqual([])
  })

  it('lets callers be overtaken that were stopped meanwhile', () => {
    expect(check({ ...overtaking(), faults: [fault({ worker: 2, from: 200, until: 600 })] })).toEqual([])
  })
})

describe('everyWaitEnds', () => {
  const check = checkers.everyWaitEnds

  it('finds a call without an answer', () => {
    expect(check(changed('waits', 1, { endedAt: null }))).toEqual(['1.1 never got an answer about guarded:1'])
  })

  it('finds an answer that took too long', () => {
    const evidence = changed('waits', 1, { invokedAt: 0, endedAt: 6001 })
    expect(check(evidence)).toEqual(['1.1 waited 6001 ms for an answer about guarded:1'])
    expect(check({ ...evidence, gaps: [{ worker: 2, from: 100, until: 200 }] })).toEqual([])
  })

  it('expects none of the dead', () => {
    expect(check({ ...changed('waits', 1, { endedAt: null }), faults: [killed(2, 150)] })).toEqual([])
  })
})

describe('registerNeverGoesBack', () => {
  const check = checkers.registerNeverGoesBack
  const entry = (token: number, accepted: boolean) => ({ lock: LOCK, token, accepted, operation: writeId(token) })

  it('accepts one that refuses the stale', () => {
    expect(
      check({ ...honest(), register: [entry(10, true), entry(12, true), entry(11, false), entry(12, true)] }),
    ).toEqual([])
  })

  it('finds a lower token that has overwritten a higher one', () => {
    expect(check({ ...honest(), register: [entry(10, true), entry(12, true), entry(11, true)] })).toEqual([
      'the register of guarded:1 went back from 12 to 11 (2.11)',
    ])
  })

  it('finds a holder that was refused', () => {
    expect(check({ ...honest(), register: [entry(10, true), entry(12, false)] })).toEqual([
      'the register of guarded:1 refused 12, the highest (2.12)',
    ])
  })
})

/**
 * A writer (token 10) writes from 110 to 120, downgrades at 130 and reads, as does a reader (11) beside it; then another one
 * (12) has the lock alone from 200 on.
 */
function withReaders(): Evidence {
  const evidence = honest()
  const reading = { action: 'read', weight: 1, value: null } as const
  return {
    ...evidence,
    holds: [
      hold(0, { token: 10, grantedAt: 100, sharedAt: 130, releasedAt: 180 }),
      hold(1, { worker: 2, token: 11, grantedAt: 131, releasedAt: 190, mode: 'shared lease', weight: 1 }),
      hold(2, { token: 12, grantedAt: 200, releasedAt: 230 }),
    ],
    waits: [100, 131, 200].map((endedAt, index) => wait(index, { invokedAt: endedAt - 10, endedAt })),
    writes: [
      write(0, { token: 10, invokedAt: 105, stay: { from: 110, until: 120 } }),
      { ...write(1, { token: 11, invokedAt: 135, stay: { from: 140, until: 185 } }), ...reading },
      { ...write(2, { token: 10, invokedAt: 135, stay: { from: 140, until: 170 } }), ...reading, owner: ownerOf(0) },
      { ...write(3, { token: 12, invokedAt: 205, stay: { from: 210, until: 220 } }), owner: ownerOf(2), value: 2 },
    ],
    entries: [
      { ...writtenBy(0, 10), seq: 1 },
      { ...writtenBy(3, 12), seq: 2, owner: ownerOf(2), value: 2 },
    ],
    reads: [read(1, 11, 1), read(2, 10, 0)],
    counters: new Map([[LOCK, 2]]),
  }
}

const read = (index: number, token: number, owner: number) => {
  return { operation: writeId(index), lock: LOCK, token, owner: ownerOf(owner), first: 1, last: 1 }
}

/** Three callers have 2, 2 and 1 of five permits, and use them at the same time. */
function withPermits(): Evidence {
  const weights = [2, 2, 1]
  const grantedAt = (index: number) => 100 + 10 * index
  return {
    ...honest(),
    roomOf: () => 5,
    holds: weights.map((weight, index) =>
      hold(index, { token: 10 + index, weight, mode: 'permits', grantedAt: grantedAt(index), releasedAt: 300 }),
    ),
    waits: weights.map((weight, index) =>
      wait(index, { weight, mode: 'permits', invokedAt: grantedAt(index) - 10, endedAt: grantedAt(index) }),
    ),
    writes: weights.map((weight, index) => ({
      ...write(index, { token: 10 + index, invokedAt: 150, stay: { from: 160 + index, until: 250 } }),
      ...{ action: 'use', weight, value: null },
    })),
    entries: [],
    uses: weights.map((weight, index) => ({ ...useOf(index, 10 + index), weight, seats: weight })),
    counters: new Map([[LOCK, 0]]),
  }
}

const useOf = (index: number, token: number) => {
  return { operation: writeId(index), lock: LOCK, token, owner: ownerOf(index) }
}

describe.each([
  ['readers beside each other and a downgrade', withReaders],
  ['permits', withPermits],
])('of %s', (_, evidence) => {
  it.each(Object.entries(checkers))('%s finds nothing wrong', (__, check) => {
    expect(check(evidence())).toEqual([])
  })
})

describe('holdsFitTogether', () => {
  const check = checkers.holdsFitTogether
  const withHold = (evidence: Evidence, index: number, change: Partial<Hold>): Evidence => {
    return { ...evidence, holds: evidence.holds.map((each, at) => (at === index ? { ...each, ...change } : each)) }
  }
  const withStay = (evidence: Evidence, index: number, change: Partial<Write>): Evidence => {
    return { ...evidence, writes: evidence.writes.map((each, at) => (at === index ? { ...each, ...change } : each)) }
  }

  it('finds a writer who is granted the lock beside a reader', () => {
    expect(check(withHold(withReaders(), 1, { releasedAt: 205 }))).toEqual([
      '1.2 had all of guarded:1 beside 1.1 with 1',
    ])
  })

  it('finds a reader who is granted the lock beside a writer', () => {
    expect(check(withHold(withReaders(), 0, { sharedAt: 135 }))).toContain('1.1 had 1 of guarded:1 beside 1.0 with all')
    expect(check(withHold(withReaders(), 0, { sharedAt: null }))).toContain(
      '1.1 had 1 of guarded:1 beside 1.0 with all',
    )
  })

  it('finds a guarded read that commits while a writer has the lock, although its lease had run out', () => {
    const late = withStay(withHold(withReaders(), 1, { until: 150 }), 1, { stay: { from: 140, until: 205 } })
    expect(check(late)).toEqual(['1.2 had all of guarded:1 beside 2.1 with 1'])
  })

  it('finds a guarded write beside a reader who trusts its lease', () => {
    const evidence = withReaders()
    expect(check(withStay(evidence, 0, { stay: { from: 110, until: 150 } }))).toContain(
      '1.1 had 1 of guarded:1 beside 2.0 with all and 1.0 with 1',
    )
  })

  it('finds two guarded writes at the same time', () => {
    const evidence = { ...withReaders(), holds: [] }
    expect(check(withStay(evidence, 3, { stay: { from: 115, until: 118 } }))).toEqual([
      '2.3 had all of guarded:1 beside 2.0 with all',
    ])
  })

  it('finds more permits than there are, trusted or used under a guard', () => {
    const evidence = { ...withPermits(), roomOf: () => 4 }
    expect(check({ ...evidence, writes: [] })).toEqual(['1.2 had 1 of guarded:1 beside 1.0 with 2 and 1.1 with 2'])
    expect(check({ ...evidence, holds: [] })).toEqual(['2.2 had 1 of guarded:1 beside 2.0 with 2 and 2.1 with 2'])
  })

  it('finds permits that are granted again while a transaction uses them whose lease has run out', () => {
    const evidence = withPermits()
    const [first] = evidence.holds
    const again = hold(3, { token: 20, weight: 2, mode: 'permits', grantedAt: 200, releasedAt: 210 })
    const holds = [{ ...first!, until: 190 }, ...evidence.holds.slice(1), again]
    expect(check({ ...evidence, holds })).toHaveLength(1)
    // Its transaction has ended.
    const [use, ...others] = evidence.writes
    const writes = [{ ...use!, stay: { from: 160, until: 180 } }, ...others]
    expect(check({ ...evidence, holds, writes })).toEqual([])
  })

  it('does not count what did not commit, or is of a negative control', () => {
    const evidence = withStay({ ...withReaders(), holds: [] }, 3, { stay: { from: 115, until: 118 } })
    expect(check({ ...evidence, entries: evidence.entries.slice(0, 1) })).toEqual([])
    expect(check({ ...evidence, isGuarded: () => false })).toEqual([])
  })

  it('counts a commit without an answer that the database has', () => {
    const evidence = withStay({ ...withReaders(), holds: [] }, 3, { stay: { from: 115, until: 118 }, outcome: 'info' })
    expect(check(evidence)).toHaveLength(1)
  })

  it('does not judge leases while the clock of the server is set, but what is guarded', () => {
    const faults = [fault({ from: 150, until: 160, setsClock: true })]
    expect(check({ ...withHold(withReaders(), 1, { releasedAt: 205 }), faults })).toEqual([])
    expect(check({ ...withStay(withReaders(), 3, { stay: { from: 115, until: 118 } }), faults })).not.toEqual([])
  })
})

describe('readsAreBetweenTheirWriters', () => {
  const check = checkers.readsAreBetweenTheirWriters
  const withRead = (change: Partial<Evidence['reads'][number]>): Evidence => {
    const evidence = withReaders()
    return { ...evidence, reads: [{ ...evidence.reads[0]!, ...change }] }
  }

  it('finds a write in the midst of a read', () => {
    expect(check(withRead({ last: 2 }))).toEqual(['2.1 with token 11 of guarded:1 saw 1, and then 2'])
  })

  it('finds a read after a later writer has written', () => {
    expect(check(withRead({ first: 2, last: 2 }))).toEqual([
      '2.1 with token 11 of guarded:1 saw 2, which token 12 had written',
    ])
  })

  it('finds a read before an earlier writer has written', () => {
    expect(check(withRead({ first: 0, last: 0 }))).toEqual([
      '2.1 with token 11 of guarded:1 saw 0, and token 10 wrote 1 afterwards',
    ])
  })

  it('accepts a read of what has never been written, and of its own write', () => {
    expect(check({ ...withRead({ first: 0, last: 0 }), entries: [] })).toEqual([])
    expect(check(withRead({ token: 10, owner: ownerOf(0) }))).toEqual([])
  })
})

describe('permitsHaveSeats', () => {
  it('finds guarded transactions that have more permits than there are', () => {
    const evidence = withPermits()
    const uses = evidence.uses.map((use) => ({ ...use, seats: 1 }))
    const found = ['2.0 found 1 seats of guarded:1 free, not 2', '2.1 found 1 seats of guarded:1 free, not 2']
    expect(checkers.permitsHaveSeats({ ...evidence, uses })).toEqual(found)
    expect(checkers.permitsHaveSeats({ ...evidence, uses, isGuarded: () => false })).toEqual([])
  })
})

describe('controlErrors', () => {
  const ofControl = (evidence: Evidence, lock: string): Evidence => {
    const renamed = <T extends { lock: string }>(items: readonly T[]) => items.map((item) => ({ ...item, lock }))
    const { holds, writes, entries, reads, uses } = evidence
    const work = { writes: renamed(writes), entries: renamed(entries), reads: renamed(reads), uses: renamed(uses) }
    return { ...evidence, ...work, holds: renamed(holds), isGuarded: () => false }
  }

  it('counts what was done beside others, and each thing once', () => {
    const honestControl = ofControl(withReaders(), 'modes without guard:1')
    expect(controlErrors(honestControl, 'modes without guard')).toEqual({ writes: 4, lost: 0 })
    const writes = honestControl.writes.map((each) => ({ ...each, stay: { from: 100, until: 200 } }))
    const reads = honestControl.reads.map((each) => ({ ...each, last: 2 }))
    expect(controlErrors({ ...honestControl, writes, reads }, 'modes without guard')).toEqual({ writes: 4, lost: 3 })
  })

  it('counts permits that found no seats, or more of them than there are', () => {
    const honestControl = ofControl(withPermits(), 'permits without guard:1')
    expect(controlErrors(honestControl, 'permits without guard')).toEqual({ writes: 3, lost: 0 })
    const uses = honestControl.uses.map((each) => ({ ...each, seats: 1 }))
    expect(controlErrors({ ...honestControl, uses }, 'permits without guard')).toEqual({ writes: 3, lost: 2 })
    expect(controlErrors({ ...honestControl, roomOf: () => 3 }, 'permits without guard')).toEqual({
      writes: 3,
      lost: 2,
    })
  })
})

describe('losses of those who share', () => {
  const check = checkers.lossesAreSignalledInTime
  const lostReader = (lostAt: number): Evidence => {
    const evidence = withReaders()
    const holds = evidence.holds.map((each, index) =>
      index === 1 ? { ...each, releasedAt: null, until: 150, lostAt } : each,
    )
    return {
      ...evidence,
      holds: [
        ...holds.slice(0, 2),
        { ...holds[1]!, token: 12, grantedAt: 160, lostAt: null, until: 190 },
        hold(2, { token: 13, grantedAt: 200 }),
      ],
    }
  }

  it('are due before a writer has the lock, and not before other readers have it', () => {
    expect(check(lostReader(199))).not.toContain(expect.stringContaining('1.1 was told'))
    expect(check(lostReader(201))).toContain('1.1 was told 1.0 ms too late that it had lost guarded:1')
  })
})

describe('a history', () => {
  it('tells what was granted, written, lost and left without an end', () => {
    const history = emptyHistory()
    const reader = new EventReader(history)
    const [acquire, writing]: OperationId[] = ['3.1', '3.2']
    reader.read({
      at: 1,
      operation: acquire!,
      type: 'invoke',
      call: { action: 'acquire', lock: LOCK, mode: 'lease', weight: null },
    })
    reader.read({ at: 2, operation: acquire!, type: 'ok', grant: { token: 7, owner: 'me', until: 900 } })
    const call = { action: 'write', lock: LOCK, token: 7, owner: 'me', weight: null, value: 1 } as const
    reader.read({ at: 3, operation: writing!, type: 'invoke', call })
    reader.read({ at: 4, operation: acquire!, type: 'held', until: 1200 })
    reader.read({ at: 5, operation: '3.0', type: 'gap', from: 4.5 })
    reader.read({ at: 5.5, operation: acquire!, type: 'shared' })
    reader.read({ at: 6, operation: acquire!, type: 'lost' })
    const read: OperationId = '3.3'
    reader.read({ at: 7, operation: read, type: 'invoke', call: { ...call, action: 'read', weight: 1, value: null } })
    reader.read({ at: 9, operation: read, type: 'ok', stay: { from: 7.5, until: 8 } })
    expect(history.waits).toMatchObject([{ outcome: 'ok', worker: 3, invokedAt: 1, endedAt: 2 }])
    expect(history.holds).toMatchObject([
      { token: 7, requestedAt: 1, grantedAt: 2, until: 1200, sharedAt: 5.5, lostAt: 6, releasedAt: null },
    ])
    expect(history.writes).toMatchObject([
      { operation: '3.2', outcome: 'info', endedAt: null, value: 1, stay: undefined },
      { operation: '3.3', action: 'read', outcome: 'ok', weight: 1, stay: { from: 7.5, until: 8 } },
    ])
    expect(history.gaps).toEqual([{ worker: 3, from: 4.5, until: 5 }])
  })
})
