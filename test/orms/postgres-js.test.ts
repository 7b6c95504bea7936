import { allSuites } from './all-suites.ts'

allSuites('postgres.js')
