import type { Engine, Occasion } from './besides.ts'
import type { StatementName } from './statements.ts'

/**
 * Why each statement is safe: what becomes of it if another session acts just before or after it, which row lock it takes, and why it
 * waits for nobody. It stands above the statement in the files beside this one. The compiler sees to it that each statement has one.
 */
export const REASONS: { readonly [Of in Engine]: Readonly<Record<StatementName<Of>, string>> } = {
  postgres: {
    acquireOne:
      'rowlock_acquire_1 (migrations/postgres) locks the row FOR UPDATE SKIP LOCKED if it is free, and judges it as locked: of two who come at once one finds it locked, and is refused; so is everybody while a guard has it FOR KEY SHARE. If it was shared, it is free only if all slots could be locked as well. Who creates a name only tries for the advisory lock that keeps two of them apart.',
    acquireAlike:
      'Free rows are locked FOR UPDATE SKIP LOCKED and judged as locked, so who comes at the same time skips them. They are changed at their places, where nothing is found if they have changed since the statement began: acquireMany looks at those again. The weights of shared holds (`used`) are judged with the row.',
    acquireMany:
      'Free rows are locked FOR UPDATE SKIP LOCKED and judged as locked; of two who create a name one gets the advisory lock, for which they only try, and the other is refused. A refusal tells what was read, and may be out of date when it comes; a grant cannot be. What is shared is refused, and left to acquireEach.',
    acquireEach: 'rowlock_acquire_1 for each, as acquireOne says. Nothing is waited for, so the order does not matter.',
    acquireShared:
      'rowlock_share_1 (migrations/postgres) locks the row FOR UPDATE SKIP LOCKED, and then the slots that have ended: so what takes weights off, or adds them, goes one after the other, and no snapshot has a say in it. A slot that a guard or another transaction has locked is skipped, and goes on counting. Nothing is waited for.',
    acquireIn:
      'rowlock_within_1 (migrations/postgres) waits as long as it is told: for other transactions at an advisory lock, then for a guard at the row, FOR UPDATE, which it judges as locked and keeps until the transaction ends. Who is refused rolls back a subtransaction, and with it both locks.',
    acquireFreeIn:
      'rowlock_within_free_1 (migrations/postgres) looks at each row, in the order of names, and then locks it FOR UPDATE SKIP LOCKED and judges it as locked; it waits for nothing. What somebody else holds, waits for, or is about to take (its advisory lock cannot be had) is not locked; should somebody come in between, all is undone with a subtransaction, and the rows before that one are taken again.',
    createFree:
      'Creates free rows, and gives nobody a lock. It only tries for the advisory lock that keeps two who create a name apart, and so waits for nobody; a name whose lock somebody has is left to them.',
    pollTransactions:
      'Reads pg_locks and locks nothing. What it says may be over at once: who goes in too early waits in the database, who goes in too late has waited a little longer.',
    hasWritten:
      'Reads pg_locks and locks nothing. The transaction waits for the answer meanwhile, and keeps an id that it has until it ends; no lock is granted by the answer.',
    closeGates:
      'Grants nothing: a gate is about fairness. It waits for whoever closes or opens the same gates, for the length of such a statement, and takes them in the order of names, so not in a circle.',
    openGates:
      'Opens what was closed by the same closing only, so a gate that somebody else has closed since stays closed. It waits for the length of a statement at most, and a deadlock would be repeated.',
    enqueue:
      'The row is locked FOR NO KEY UPDATE SKIP LOCKED, which passes a guard, so places in the queue are given one after the other, in the order of names, and to several of one lock by one change of its row: nobody comes in between. What is locked, or has changed since the statement began, is answered as locked and asked again.',
    withdraw:
      'The row is locked FOR NO KEY UPDATE SKIP LOCKED, and only tickets with these ids are made smaller. If one was handed the lock just before, the answer says so; what is locked, or has changed since the statement began, is asked again.',
    promote:
      'rowlock_promote_1 (migrations/postgres) locks a row that nobody holds exclusively FOR UPDATE SKIP LOCKED, and judges it as locked: of two who promote one finds it locked, or handed over by then. Whoever is given anything by others has to lock the row, too. A slot under an open guard is skipped, and goes on counting.',
    releaseOne:
      'rowlock_release_1 (migrations/postgres) finds the row by name, owner and token, FOR UPDATE SKIP LOCKED, so one that comes late or twice finds nothing. Under an open guard it ends the lease FOR NO KEY UPDATE, and nobody is given the lock before that guard ends.',
    releaseUnawaited:
      'Rows of this name, owner and token, for which nobody waits, are locked FOR NO KEY UPDATE SKIP LOCKED, in the order of names. They are changed at their places, so one in whose queue somebody is since the statement began is left to releaseMany.',
    releaseMany: 'rowlock_release_1 for each, as releaseOne says, in the order of names.',
    releaseShared:
      'rowlock_unshare_1 (migrations/postgres) locks the row of the lock and the slot FOR UPDATE SKIP LOCKED, takes the weight off, and hands over in the same statement. If either is locked, it only ends the hold, FOR NO KEY UPDATE, which passes a guard: the weight counts until a later grant gets both locks. By name, slot, owner and token, so one that comes late or twice finds nothing.',
    releaseIn:
      "In the caller's transaction. It waits for a statement that has the row, bounded by the caller's settings, and finds it by name, owner and token then; from then until the commit all others find the row locked, so nobody has the lock before.",
    releaseSharedIn:
      "In the caller's transaction. It waits for a statement that has the slot, bounded by the caller's settings. From then until the commit the slot is locked, so the hold counts, and after a rollback it stands; the weight stays until a later grant takes it off.",
    adoptIn:
      "In the caller's transaction: ends the hold with its commit, if it has not run out. The slot is locked until then, so no grant takes the weight off, whatever the expiry says. It waits for a statement that has the slot, bounded by the caller's settings; of a hold that others took off there is no slot of this owner and token.",
    renew:
      'Rows of this name, owner and token that have not run out are locked FOR NO KEY UPDATE SKIP LOCKED, which passes a guard, and judged as locked: nothing is revived, or renewed for who lost it. It never shortens, so a late one does no harm. Changed at its place, so a row that has changed since is not waited for.',
    renewShared: 'As renew, of slots. A weight does not change, so the row of the lock is not needed.',
    guardOne:
      "In the caller's transaction: FOR KEY SHARE until it ends, and every statement that gives the lock to somebody else locks FOR UPDATE and skips the row. After a takeover there is no row of this owner and token. It waits only for whoever is giving the lock to somebody else: a statement, or a transaction that has taken it from a lease that ran out.",
    guardMany:
      'As guardOne, in the order of names, so that two transactions that guard the same leases do not wait in a circle.',
    guardShared:
      "In the caller's transaction: FOR KEY SHARE of the slot until it ends. Whoever takes the hold off locks the slot FOR UPDATE SKIP LOCKED, and finds that it counts. Guards of other slots, and grants of them, do not meet it.",
    guardManyShared:
      'As guardShared, in the order of names and slots, so that two transactions that guard the same holds do not wait in a circle.',
    poll: 'Reads, and locks no row; whether a session is gone it finds by trying for its advisory lock. What it says may be over at once: promote and acquire judge again.',
    list: 'Reads, and locks no row. What it says may be over at once, and is for people.',
    inspect: 'Reads, and locks no row. What it says may be over at once, and is for people.',
    forceRelease:
      'rowlock_force_release_1 (migrations/postgres) locks the row, and all slots that count, FOR UPDATE SKIP LOCKED: an open guard is not overtaken but answered as held. The token rises: what a former holder still sends, a guard or a release, finds nothing.',
    purge:
      'rowlock_purge_1 (migrations/postgres) locks idle rows, and then their slots, FOR UPDATE SKIP LOCKED and judges them as locked: who takes one at the same time has it locked, and it stays, or finds none and creates one. That has the clock for a token, which is above those of all rows that go. A slot that was made, and left, in that very moment may stay behind, free, for the next lock of its name.',
    openSemaphore:
      'rowlock_open_1 (migrations/postgres) inserts a row if there is none. Of two who do, one gets the advisory lock, for which they only try, and the other one is told to try again.',
    resize:
      'rowlock_resize_1 (migrations/postgres) locks the row FOR UPDATE SKIP LOCKED, as everybody does who takes permits, and so is before or after them. What is there more is handed over in the same statement.',
    available: 'Reads, and locks no row. What it says may be over at once.',
    downgrade:
      'rowlock_downgrade_1 (migrations/postgres) locks the row FOR UPDATE SKIP LOCKED, by name, owner and token, and moves the hold to a slot in the same statement: nobody comes in between. While a guard has the row it is answered as locked. Asked again, it finds the slot.',
    publishWaits:
      'Writes the row of this process, or deletes it, which nobody else locks but purge, once it is old, for the length of that statement. The others are read, and no row of them is locked; what they say just after is read the next time. It grants nothing.',
    readMarksOf: 'Reads, and locks no row. What is written just after is read the next time.',
    readMarks: 'As readMarksOf.',
    writeMarkUnder:
      "Locks the row of the lock FOR KEY SHARE SKIP LOCKED, as a guard does, and judges it as locked: until the commit, which the same statement makes, nobody is granted the lock. A row that others have locked is skipped, and the caller asks again. The mark is the holder's alone to write; one with a higher token stays.",
    writeMark:
      'By the primary key, for the length of this statement. One with a higher token stays, whoever comes first.',
    deleteMark: 'By the primary key, as writeMark. A mark with a higher token stays.',
    beginMark:
      'In a transaction that has the lock of that name, so nobody else makes a mark of it meanwhile. One that a snapshot does not see ends the transaction. Whoever purges it just before makes no difference: it is past its time.',
    writeMarkIn: 'In a transaction that has the lock of that name, or guards it: nobody else writes this mark.',
  },

  mysql: {
    acquire:
      'Free rows are locked FOR UPDATE SKIP LOCKED in a derived table, which the LIMIT keeps apart, and judged as locked: of two who come at once one skips the row, and so does everybody while a guard has it. The join then finds by the primary key what is locked already.',
    create:
      "The primary key decides who creates the row: who comes second changes nothing, and sets last_insert_id() to 0. It waits only for a transaction that has created the row, or locked it, since it was found missing: MySQL has no NOWAIT for an INSERT, and statementTimeout ends the caller's wait.",
    createInMariadb:
      'As create, with a limit of its own: it waits for a second at most, and then somebody else has the row.',
    createFree:
      "Makes a row that nobody holds, and leaves one that is there as it was, so it grants nothing whoever comes first. It waits only for a transaction that has begun to create the row just before: for a second at most on rowlock's own connection, and in the caller's transaction for as long as the session's settings say.",
    createFreeInMariadb:
      'As createFree, with a limit of its own: on another connection than the transaction it waits for nobody.',
    lockRowNow:
      'Commits at once, so its lock lasts for no longer than the statement. NOWAIT: that a transaction has the row is an error of this statement. One that creates the row just after it is what createFree waits for.',
    takeRowInMariadb:
      "In the caller's transaction: waits for the row as long as the limits in front of it say, which end the statement alone, judges it as locked, and keeps it until the transaction ends. A lease that came first stays, and then the transaction is aborted, since it may have the row locked.",
    takeRow:
      "In the caller's transaction, after lockRow, so that it waits for nobody: what it judges is locked by this transaction. A lease that came first stays, and then the transaction is aborted, since it has the row locked.",
    takeRowNow:
      "In the caller's transaction, FOR UPDATE NOWAIT: a row that somebody has is an error of this statement, and waited for by lockRow. SKIP LOCKED would go on and lock the gap behind. What is free is judged as locked, and kept until the transaction ends.",
    takeFree:
      "In the caller's transaction. Rows are locked FOR UPDATE NOWAIT in a derived table, in the order of names, so it waits for nobody, and judged as locked; a transaction that has one of them ends the statement, which leaves those before locked, as they would have been anyway. A lease that came after the look from outside makes it change fewer rows than asked, or is seen by another look if the statement was ended: its row may be locked, which aborts the transaction.",
    tokens:
      "In the caller's transaction: reads rows that it has locked and changed, by their keys, so it waits for nobody, and sees nothing but its own.",
    lockRowsNow:
      'Of names that had no row: NOWAIT, so it waits for nobody, and locks what it finds for the length of the statement. It tells whether an open transaction is creating one of them, for which the INSERT after it would wait.',
    createAllFree:
      'Creates free rows, in the order of names, and gives nobody a lock. Where a row has come in between it changes nothing, but may wait for a transaction that has locked that one meanwhile, as createFree.',
    lockRow:
      "In the caller's transaction: waits for the row for as long as the hint says, which ends this statement alone, and keeps it until the transaction ends. takeRow judges it.",
    ownHold:
      "In the caller's transaction: waits for nobody. The row of a hold that stands is locked by this transaction; of one that was rolled back, the row is somebody else's, and NOWAIT makes that an error of this statement alone, or nobody's, and then it is taken next.",
    ownHoldInMariadb:
      'As ownHold, by a limit in front of it, since NOWAIT would be the error that may roll back the transaction there.',
    keepAsLease:
      "In the caller's transaction, which has the row locked (ownHold): what it writes begins with the commit, and nobody can be given the lock before.",
    closeGates:
      'Grants nothing: a gate is about fairness. It waits for whoever closes or opens the same gates, for the length of such a statement, and takes them in the order of names, so not in a circle.',
    openGates:
      'Opens what was closed by the same closing only, so a gate that somebody else has closed since stays closed. It waits for the length of a statement at most, in the order of names.',
    enqueue:
      'The row is locked FOR UPDATE SKIP LOCKED in a derived table, and its queue read as locked, so places are given one after the other, and no more than may wait. A row that is locked is asked for again.',
    withdraw:
      'The row is locked FOR UPDATE SKIP LOCKED in a derived table, and only the ticket with this id is made smaller, at the place where it is then. A row that is locked is asked for again.',
    changes:
      "Reads, and locks no row: what became of enqueue and withdraw. Others may have changed the queue in between; the ticket's last change, or the hold that it has become, still tells.",
    promote:
      'Rows that nobody holds are locked FOR UPDATE SKIP LOCKED in a derived table and judged as locked: of two who promote one finds the row locked, or held by then, and under an open guard it is skipped. A first ticket that is dead, or that shares, is left to a step (change).',
    release:
      'Rows of this name, owner and token, for which nobody waits, are locked FOR UPDATE SKIP LOCKED in a derived table. One that comes late or twice finds nothing; where somebody has queued just before, handOver follows.',
    handOver:
      'Rows of this name, owner and token are locked FOR UPDATE SKIP LOCKED in a derived table, and handed to the first in their queues in the same statement: nobody can barge in between. If the first is dead, or shares, the lock is free, but with a queue, so that only promote gives it away.',
    releaseIn:
      "In the caller's transaction. It waits for a statement that has the row, bounded by the caller's settings, and finds it by name, owner and token then; from then until the commit all others find the row locked, so nobody has the lock before.",
    releaseSlotIn:
      "In the caller's transaction: the slot by its whole key, which nobody else can lock until it ends; so what the hold takes counts until then, and is taken off by a later step that finds the slot ended. It waits for a statement that has the slot, bounded by the caller's settings.",
    adoptIn:
      'As releaseSlotIn, if the hold has not run out: it has ended after the commit, is what it was after a rollback, and counts until either, whatever its expiry says. Its write takes part in the certification of a cluster.',
    awaited:
      'A plain read of a row that this transaction has changed, and so has locked; an arrival after the commit is seen by its own look.',
    renew:
      'Rows of this name, owner and token that have not run out are locked FOR UPDATE SKIP LOCKED in a derived table and judged as locked: nothing is revived, or renewed for who lost it. It never shortens, so a late one does no harm. A row that a guard has is answered as held.',
    renewSlots:
      "As renew, of slots by their whole keys, so no other slot is touched, and no gap. The lock's row is left alone: whoever takes off what has run out has the slot locked, and judges it as locked.",
    guardSlots:
      'As guard, of slots by their whole keys: guards of others that share the lock have slots of their own. A step that would take off what has run out finds the slot locked, and counts it. They are waited for in the order of names and slots.',
    guard:
      "In the caller's transaction: writes the row, which nobody else can lock until it ends, and which takes part in the certification of a cluster. It waits for whoever has the rows, in the order of names, bounded by the caller's settings; after a takeover there is no row of this owner and token.",
    token: 'A plain read of a row that this transaction has changed, and so has locked: nobody else can change it.',
    read: 'Reads, and locks no row. What it says may be over at once: promote and acquire judge again. What became of a statement before it is judged by owner and token.',
    list: 'Reads, and locks no row. What it says may be over at once, and is for people.',
    whole:
      'Reads, and locks no row, the lock and its slots at one moment. Whoever acts on it (change) does so only if all is as it was read.',
    change:
      "The lock's row is locked FOR UPDATE SKIP LOCKED in a derived table, and changed only if token, holder, expiry, queue, permits and the sum of weights are as they were read; so of two who step at once one finds another row, or skips it, and decides anew. What had run out stays so, and tokens only rise.",
    changeWithSlots:
      'As change, and each slot that changes is locked in the same way, by its whole key, and has to be as it was read, or nothing is changed at all. So what a guard or an open transaction has locked is never taken off; weights change with their sum, under the lock of one row.',
    share:
      'As changeWithSlots, but others may come and go in between: the row has to have no other exclusive holder, queue or permits than were read, and the sum of weights, as it is when the row is locked, has to leave room. Of an attempt that is sent twice at once, and finds two slots, the second has no effect, since no two slots of a lock have the same owner. Each slot that changes has to be as it was read, so its weight goes into the sum once, and off it once.',
    makeSlots:
      'Makes free slots. Whoever makes the same ones at the same time waits for the length of a statement; a slot that is there already is left as it is.',
    unlocked:
      'Locks slots by their whole keys, SKIP LOCKED, and lets them go at once: what is left out, somebody else has. It may be over at once, and then the step is decided as if it were not.',
    endInSlot:
      'The slot is locked FOR UPDATE SKIP LOCKED in a derived table, and found by name, number, owner and token, so one that comes late or twice finds nothing. Its weight stays in the sum, so nobody is given too much, until a step takes it off.',
    createFor:
      'Makes a row that nobody holds; one that somebody else has made meanwhile is left as it is, and judged by what it is. Asked only where none was seen, so it waits for whoever is making it, and for nobody else.',
    forceRelease:
      'The row is locked FOR UPDATE SKIP LOCKED in a derived table, so an open guard is not overtaken but answered as held. The token rises: what the former holder still sends, a guard or a release, finds nothing.',
    purgeable: 'Reads, and locks no row: purge judges again.',
    purge:
      'Idle rows are locked FOR UPDATE SKIP LOCKED in a derived table and judged as locked: who takes one at the same time has it locked, and it stays, or finds none and creates one. That has the clock for a token, which is above those of all rows that go.',
    purgeWithSlots:
      'As purge, with all slots that were seen, each locked by its whole key: if one of them is locked, nothing goes. Of a slot that is made just then the row stays behind; it is free, and of use to who has that name next.',
    publishWaits:
      'By the primary key, so it locks the row of this process alone, which nobody else does but purgeWaits, once it is old, for the length of that statement. It grants nothing.',
    withdrawWaits:
      'By the primary key, as publishWaits. If there is no such row it has a gap locked until it ends, which is at once, since it has nothing to write.',
    waitsOfOthers: 'Reads, and locks no row. What others say just after is read the next time, and it grants nothing.',
    purgeableWaits: 'Reads, and locks no row: purgeWaits judges again.',
    purgeWaits:
      'The rows that were found are locked by their keys, FOR UPDATE SKIP LOCKED in a derived table, and judged as locked: one that its process has written meanwhile stays. A process whose row goes just before it writes makes another one.',
    readMarks: 'Reads, and locks no row. What is written just after is read the next time.',
    makeMark:
      'Makes a row that nobody sees. Of two who make it one waits for the other, for the length of that statement.',
    writeMarkUnder:
      "The row of the lock is locked FOR UPDATE SKIP LOCKED in a derived table, judged as locked, and written, as by a guard: until the commit, which the same statement makes, nobody is granted the lock. The mark is the holder's alone to write; one with a higher token stays.",
    writeMark:
      'By the primary key, for the length of this statement. One with a higher token stays, whoever comes first.',
    deleteMark: 'By the primary key, as writeMark. A mark with a higher token stays.',
    beginMark:
      'In a transaction that has the lock of that name, so nobody else makes a mark of it meanwhile: it waits for purge at most, for the length of that statement. An INSERT locks no gap, and of a row that is there the row alone.',
    markNow: 'The row is there, so it alone is locked, by a transaction that has the lock of that name.',
    writeMarkIn: 'In a transaction that has the lock of that name, or guards it: nobody else writes this mark.',
    checkpointed:
      'In a transaction that has the row locked, since it guards the lease of that token: nothing is waited for, and if it is not its own, nothing is found.',
    purgeableMarks: 'Reads, and locks no row: purgeMarks judges again.',
    purgeMarks:
      'The rows that were found are locked by their keys, FOR UPDATE SKIP LOCKED in a derived table, and judged as locked: one that was written meanwhile stays.',
  },

  sqlite: {
    acquire:
      'A statement that writes has the file to itself from before it looks until it has committed, so of two who come at once the second sees the first. A file that is busy is an error at once, and the statement is repeated.',
    acquireIn:
      "In the caller's transaction, which has the file to itself from here to its end: nobody takes any lock meanwhile. A file that is busy is an error, after which a deferred transaction has to begin again.",
    keepOwn:
      'The row has the token that this very transaction was given, so it has written the row, and the file to itself since; a token of a name never comes again. If that was undone with a savepoint, the row has another one.',
    enqueue:
      'A statement that writes has the file to itself, so places in the queue are given one after the other, and no more than may wait.',
    withdraw:
      'A statement that writes has the file to itself, and only the ticket with this id is made smaller. If it was handed the lock just before, the answer says so.',
    promote:
      'A statement that writes has the file to itself: of two who promote the second finds the lock held, and no guarded transaction is open. What is shared, or is to be, it leaves to read and write.',
    release:
      'A statement that writes has the file to itself, and hands over in the same moment, so nobody can barge in between. By name, owner and token, so one that comes late or twice finds nothing. Those who would share the lock are left to read and write.',
    releaseIn:
      "In the caller's transaction, which has the file to itself from here to its end, so nobody has the lock before the commit. By name, owner and token.",
    renew:
      'A statement that writes has the file to itself. By name, owner, token and expiry, so nothing is revived, or renewed for who lost it; it never shortens, so a late one does no harm.',
    guard:
      "In the caller's transaction: changes nothing, but is a write, so from here to its end nobody else writes to the file, and nobody takes any lock. After a takeover there is no row of this owner and token.",
    guardShared:
      'As guard: a write that changes nothing, after which nobody else writes until the transaction ends. What it tells of the rows is true until then, so the holds are looked for in that.',
    adoptIn:
      "In the caller's transaction, which has the file to itself from here to its end: nobody takes any lock meanwhile, so the hold counts though it has ended. After a rollback it is what it was.",
    releaseSharedIn:
      "In the caller's transaction, which has the file to itself from here to its end, so nobody has the lock before the commit. By name, slot, owner and token.",
    read: 'Reads, and waits for no writer. What it says may be over at once: what is refused by it was so a moment ago, and what is granted by it is written by acquire, which judges again, or by write.',
    write:
      'A statement that writes has the file to itself, and it writes a row only if all of it is as it was when read: of two who read the same the second writes nothing, and reads again. A decision that is late is of the moment of its read, since when nobody has changed the row. If a guarded transaction was open meanwhile, it has ended.',
    list: 'Reads, and waits for no writer. What it says may be over at once, and is for people.',
    purge:
      'A statement that writes has the file to itself: who takes one of these locks does so before, and its row stays, or after, and creates one. That has the clock for a token, which is above those of all rows that go.',
    publishWaits:
      'A statement that writes has the file to itself. It writes the row of this process, and grants nothing.',
    withdrawWaits: 'As publishWaits.',
    waitsOfOthers:
      'Reads, and waits for no writer. What others say just after is read the next time, and it grants nothing.',
    purgeWaits:
      'A statement that writes has the file to itself. A process whose row goes just before it writes makes another one.',
    readMarks: 'Reads, and waits for no writer. What is written just after is read the next time.',
    writeMarkUnder:
      'A statement that writes has the file to itself, so the hold stands when the mark is committed. One with a higher token stays.',
    writeMark: 'A statement that writes has the file to itself. A mark with a higher token stays.',
    deleteMark: 'As writeMark.',
    beginMark: 'In a transaction that has written, and so has the file to itself.',
    writeMarkIn: 'As beginMark.',
    purgeMarks: 'A statement that writes has the file to itself.',
    changingFile: 'Reads what this connection has open, and no table.',
  },
}

/** The same for what is not compiled. */
export const REASONS_BESIDES: { readonly [Of in Engine]: Readonly<Record<Occasion<Of>, string>> } = {
  postgres: {
    assess: 'Reads settings and catalogs, before the first lock, and locks nothing.',
    openSession:
      "On rowlock's own connection. The advisory lock is tried for, and its key is random: nobody has it, and nobody ever gets it again. It ends with the session, which is what others try for; where a pooler's session would keep it, it is not taken.",
    listen:
      "On rowlock's own connection, by an advisory lock as for openSession, which shows that the process lives. A notification only hastens what a poll finds anyway, so one that comes before LISTEN or after UNLISTEN costs time and nothing else.",
    readsSnapshot: "In the caller's transaction. SHOW takes no snapshot, and no lock.",
    guardedQuery:
      "The caller's statement with guardOne beside it, whose row lock lasts until the transaction ends. If that finds no row, a cast fails, which undoes the whole statement, whatever of it was executed first.",
    migrate:
      'Those who migrate the same tables take turns at an advisory lock until their commit, so what one finds missing nobody else is creating. It waits for them, and for nobody who takes locks. Between the last two statements: the migrations that have not run.',
  },
  mysql: {
    assess: 'Reads settings, before the first lock, and locks nothing.',
    openSession:
      "On rowlock's own connection, on which a row is waited for no longer than a second. The name of the GET_LOCK is random, so nobody has it or ever gets it again; it ends with the session, which is what others ask for. Where a proxy's session would keep it, it is not taken.",
    releaseIn:
      'Before the compiled statement of that name: the answer to it says whether a transaction is open, and changes nothing.',
    migrate:
      'Those who migrate the same tables take turns by a GET_LOCK of this name, for a minute at most. DDL commits by itself, so each statement may be run again after one that was cut off. Between the last two: the migrations that have not run, and the table that lists them if it is missing.',
  },
  sqlite: {
    assess: 'Reads settings, before the first lock, and waits for no writer.',
    assertOpen: "In the caller's transaction: fails if it is over, and else does nothing.",
    migrate:
      'BEGIN IMMEDIATE has the file to itself until the commit, so those who migrate take turns. Before `commit`: the migrations that have not run.',
  },
}
